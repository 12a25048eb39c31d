-- What is done for, and within, a transaction of somebody else's. Made anew by every migration, as the other
-- functions are.

-- Tells this schema from any other, also from one of the same name elsewhere.
CREATE OR REPLACE FUNCTION {schema}.store() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off AS $$
    SELECT concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
        (SELECT oid FROM pg_database WHERE datname = current_database()), current_schema()::text::regnamespace::oid)
$$;

-- Refuse a transaction that cannot be joined: in another store; or one that keeps to what it saw at its beginning,
-- and has not seen the claim that was set apart for it since.
CREATE OR REPLACE FUNCTION {schema}.joins(asked text, which bigint DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off AS $$
BEGIN
    IF asked IS DISTINCT FROM store() THEN
        RAISE EXCEPTION 'this connection leads to another store' USING ERRCODE = 'NC002';
    END IF;
    IF which IS NOT NULL AND current_setting('transaction_isolation') IN ('repeatable read', 'serializable')
        AND NOT EXISTS (SELECT FROM claim WHERE id = which)
    THEN
        RAISE EXCEPTION 'could not serialize access: the job was set apart after this transaction began'
            USING ERRCODE = '40001', HINT = 'Begin the transaction anew.';
    END IF;
    RETURN true;
END $$;

-- Make what jobs of these shapes need and others share, so that nobody's long transaction makes it.
CREATE OR REPLACE FUNCTION {schema}.make_streams(queues text[], tasks text[], labels text[], priorities smallint[])
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off AS $$
    INSERT INTO lane(queue, task, label)
    SELECT DISTINCT ON (queue, task) queue, task, label FROM unnest(queues, tasks, labels) asked(queue, task, label)
    WHERE NOT EXISTS (SELECT FROM lane WHERE lane.queue = asked.queue AND lane.task = asked.task)
    ORDER BY queue, task
    ON CONFLICT DO NOTHING;
    INSERT INTO stream(id)
    SELECT DISTINCT lane.id::bigint << 8 | 100 - asked.priority AS id
    FROM unnest(queues, tasks, priorities) asked(queue, task, priority)
    JOIN lane ON lane.queue = asked.queue AND lane.task = asked.task
    WHERE NOT EXISTS (SELECT FROM stream WHERE stream.id = lane.id::bigint << 8 | 100 - asked.priority)
    ORDER BY id
    ON CONFLICT DO NOTHING;
$$;

-- Take an open grant out of the claim that it came with, into one of its own (`own`), so that whoever locks it
-- locks nobody else's. Answers the claim that it is in now, NULL where it is not held; and the same when asked again.
CREATE OR REPLACE FUNCTION {schema}.set_apart(which bigint, job uuid, its_fence integer, own bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off AS $$
#variable_conflict use_column
DECLARE
    had claim;
    n integer;
BEGIN
    SELECT * INTO had FROM claim WHERE id = own;
    IF NOT FOUND THEN
        SELECT * INTO had FROM claim WHERE id = which;
    END IF;
    IF cardinality(had.ids) > 1 THEN
        SELECT * INTO had FROM claim WHERE id = had.id FOR UPDATE;
    END IF; -- else it is apart: not locked, as a transaction of the job's own may have it
    n := array_position(had.ids, job);
    IF n IS NULL OR had.fences[n] <> its_fence THEN
        RETURN NULL;
    END IF;
    IF cardinality(had.ids) = 1 THEN
        RETURN had.id;
    END IF;
    INSERT INTO claim(id, worker, origin, raised, sweep, claimed_at, ids, fences, attempts, crashes, losses)
    VALUES (own, had.worker, had.origin, had.raised, had.sweep, had.claimed_at, had.ids[n:n], had.fences[n:n],
        had.attempts[n:n], had.crashes[n:n], had.losses[n:n]);
    UPDATE claim SET ids = had.ids[:n - 1] || had.ids[n + 1:], fences = had.fences[:n - 1] || had.fences[n + 1:],
        attempts = had.attempts[:n - 1] || had.attempts[n + 1:], crashes = had.crashes[:n - 1] || had.crashes[n + 1:],
        losses = had.losses[:n - 1] || had.losses[n + 1:]
    WHERE id = had.id;
    RETURN own;
END $$;

-- What became of a grant that was set apart, or was to be: open (a transaction that has not ended has it), held,
-- settled or lost; and which claim it is in.
CREATE OR REPLACE FUNCTION {schema}.fate(
    which bigint, own bigint, job uuid, its_fence integer, OUT fate text, OUT place bigint
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off AS $$
#variable_conflict use_column
BEGIN
    SELECT c.id INTO place FROM claim c
    WHERE c.id IN (which, own) AND (SELECT m.fence FROM unnest(c.ids, c.fences) m(id, fence) WHERE m.id = job) = its_fence;
    IF place IS NULL THEN
        fate := CASE WHEN (settled(ARRAY[job], ARRAY[its_fence]))[1] THEN 'settled' ELSE 'lost' END;
        RETURN;
    END IF;
    PERFORM FROM claim WHERE id = place FOR SHARE SKIP LOCKED;
    fate := CASE WHEN FOUND THEN 'held' ELSE 'open' END;
END $$;
