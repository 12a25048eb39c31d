-- Who may do what, where `nightcrew migrate --roles` has made the roles: given anew by every migration, so that what
-- a version adds or no longer needs is right. Run as the owner.

-- PostgreSQL lets everybody call every function, and these run with their owner's rights.
REVOKE ALL ON ALL ROUTINES IN SCHEMA {schema} FROM PUBLIC;

DO $$
DECLARE
    part text;
    known record;
BEGIN
    -- Roles belong to the whole server. Those of another database's schema of this name get nothing here.
    IF NOT EXISTS (
        SELECT FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
        WHERE n.nspname = '{name}' AND r.rolname = '{name}_owner'
    ) THEN
        RETURN;
    END IF;
    REVOKE ALL ON SCHEMA {schema} FROM PUBLIC;
    REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC;
    REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM PUBLIC;
    FOREACH part IN ARRAY '{migrator,worker,client,reader}'::text[] LOOP
        EXECUTE format('REVOKE ALL ON SCHEMA {schema} FROM %I', '{name}_' || part);
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM %I', '{name}_' || part);
        EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM %I', '{name}_' || part);
        EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA {schema} FROM %I', '{name}_' || part);
        EXECUTE format('GRANT USAGE ON SCHEMA {schema} TO %I', '{name}_' || part);
        -- Whoever opens the store asks which version it has.
        EXECUTE format('GRANT SELECT ON TABLE {schema}.migration TO %I', '{name}_' || part);
    END LOOP;
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO %I, %I', '{name}_worker', '{name}_reader');
    FOR known IN
        SELECT p.oid::regprocedure AS name, may.part
        FROM (VALUES
            ('client', '{enqueue,enqueue_alike,store,joins,make_streams}'::text[]),
            ('reader', '{now_or}'),
            ('worker', '{enqueue,enqueue_alike,store,joins,make_streams,set_apart,fate,claim,claim_outcome,finish,settled,report}'),
            ('worker', '{renew,heartbeat,retire,sweep,sweep_outcome,swept,prune,make_partitions,retire_day,drop_days}'),
            ('worker', '{claim_outcome,sweep_outcome,cancel_job,retry_job,save_document,now_or,join_tallies,forget_tallies}')
        ) may(part, calls)
        JOIN pg_proc p ON p.proname = ANY (may.calls) AND p.pronamespace = '{schema}'::regnamespace
    LOOP
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %I', known.name, '{name}_' || known.part);
    END LOOP;
END $$;
