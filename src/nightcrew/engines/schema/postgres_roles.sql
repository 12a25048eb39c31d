-- Roles of which each may do no more than it needs. Made by `nightcrew migrate --roles`; may be run again at any
-- time, by a superuser, or by whoever owns the schema and may create roles. Nobody logs in as one of them: they are
-- groups, and logins become members (GRANT {name}_worker TO …).
--
--   {name}_owner     owns the schema and all in it; its rights are those with which the functions run
--   {name}_migrator  may become the owner, by SET ROLE: `nightcrew migrate` does
--   {name}_worker    may call what workers and operators need, and read
--   {name}_client    may enqueue, and nothing else: it cannot even read
--   {name}_reader    may read
DO $$
DECLARE
    part text;
    thing record;
    -- Whether we could act as the owner already; else we lend ourselves that right for a moment.
    may_become text := CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END;
    lent boolean := false;
BEGIN
    FOREACH part IN ARRAY '{owner,migrator,worker,client,reader}'::text[] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}_' || part) THEN
            -- The migrator's logins are no owners unless they ask to be: a slip drops nothing.
            EXECUTE format('CREATE ROLE %I NOLOGIN %s', '{name}_' || part,
                           CASE part WHEN 'migrator' THEN 'NOINHERIT' ELSE 'INHERIT' END);
        END IF;
    END LOOP;
    IF NOT pg_has_role('{name}_migrator', '{name}_owner', 'MEMBER') THEN
        EXECUTE format('GRANT %I TO %I', '{name}_owner', '{name}_migrator');
    END IF;
    IF NOT pg_has_role(current_user, '{name}_owner', may_become) THEN
        EXECUTE format('GRANT %I TO %I', '{name}_owner', current_user);
        lent := true;
    END IF;
    -- The schema first: to own what is in it, one must be allowed to make things there.
    IF NOT EXISTS (
        SELECT FROM pg_namespace WHERE oid = '{schema}'::regnamespace AND nspowner = '{name}_owner'::regrole
    ) THEN
        EXECUTE format('ALTER SCHEMA %s OWNER TO %I', '{schema}', '{name}_owner');
    END IF;
    FOR thing IN
        SELECT c.oid::regclass AS name, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
        FROM pg_class c WHERE c.relnamespace = '{schema}'::regnamespace AND c.relkind IN ('r', 'p', 'S')
            AND c.relowner <> '{name}_owner'::regrole
            -- The sequence of an identity column follows its table.
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'i' AND c.relkind = 'S')
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO %I', thing.kind, thing.name, '{name}_owner');
    END LOOP;
    FOR thing IN
        SELECT p.oid::regprocedure AS name FROM pg_proc p
        WHERE p.pronamespace = '{schema}'::regnamespace AND p.proowner <> '{name}_owner'::regrole
    LOOP
        EXECUTE format('ALTER ROUTINE %s OWNER TO %I', thing.name, '{name}_owner');
    END LOOP;
    PERFORM set_config('nightcrew.lent', lent::text, true);
    EXECUTE format('SET LOCAL ROLE %I', '{name}_owner');
END $$;

{grants}
DO $$
BEGIN
    EXECUTE 'RESET ROLE';
    IF current_setting('nightcrew.lent')::boolean THEN
        EXECUTE format('REVOKE %I FROM %I', '{name}_owner', current_user);
    END IF;
END $$;
