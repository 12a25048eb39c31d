-- What an engine may ask, each as one function. Made anew by every migration, so what a version of Nightcrew
-- calls must stay as long as workers of that version may run: change a function's arguments by adding
-- another function.
--
-- `moment` is the time in tests; otherwise it is NULL, and the time is the server's. They run with their owner's
-- rights: whoever may call one needs no rights on tables.

-- The server's clock, or the one that a test gives.
CREATE OR REPLACE FUNCTION {schema}.now_or(moment double precision) RETURNS double precision
LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(moment, extract(epoch FROM clock_timestamp())::double precision)
$$;

-- --- enqueue ---------------------------------------------------------------------------------------

-- Store jobs; leave alone those whose id is there. Jobs of one call mostly differ in id and arguments only: the
-- rest is sent once for each different shape. Returns NULL when all were new, else the new ids.
CREATE OR REPLACE FUNCTION {schema}.enqueue(
    queues text[], tasks text[], priorities smallint[], most integer[], reruns boolean[], codecs integer[],
    extra text[], due double precision[], delays double precision[], labels text[],
    ids uuid[], shapes integer[], arguments text[], blobs text[], keepers uuid[],
    moment double precision DEFAULT NULL
) RETURNS uuid[]
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = {schema}, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    at double precision := coalesce(moment, extract(epoch FROM clock_timestamp()));
    lanes integer[];
    known boolean;
    lawful boolean;
    writer xid8;
    nth integer;
    new_place bigint;
    new_due double precision;
    created uuid[] := '{}';
BEGIN
    -- The transaction's id first, before a place is drawn: so others can see that one below theirs may still come.
    SELECT array_agg(lane.id ORDER BY asked.n), bool_and(stream.id IS NOT NULL),
        bool_and(asked.priority BETWEEN -100 AND 100 AND asked.most > 0), pg_current_xact_id()
    INTO lanes, known, lawful, writer FROM unnest(queues, tasks, priorities, most) WITH ORDINALITY asked(queue, task, priority, most, n)
    LEFT JOIN lane ON lane.queue = asked.queue AND lane.task = asked.task
    LEFT JOIN stream ON stream.id = lane.id::bigint << 8 | 100 - asked.priority;
    IF NOT lawful THEN
        RAISE EXCEPTION 'a priority beyond -100 and 100, or no attempt allowed' USING ERRCODE = 'check_violation';
    END IF;
    IF NOT known THEN
        PERFORM make_streams(queues, tasks, labels, priorities);
        SELECT array_agg(lane.id ORDER BY asked.n) INTO lanes
        FROM unnest(queues, tasks) WITH ORDINALITY asked(queue, task, n)
        JOIN lane ON lane.queue = asked.queue AND lane.task = asked.task;
    END IF;
    IF cardinality(ids) > 8 THEN
        -- Mostly all are new. To ask for each whether it is costs a third more: that is left for when one is not.
        BEGIN
            PERFORM store_jobs(lanes, priorities, most, reruns, codecs, extra, due, delays, ids, shapes, arguments,
                               blobs, keepers, at);
            RETURN NULL;
        EXCEPTION WHEN unique_violation THEN
            NULL;
        END;
    END IF;
    -- A few, or some that may be there: one by one. Whoever stores the same id at this moment is waited for.
    FOR n IN 1..cardinality(ids) LOOP
        nth := shapes[n];
        INSERT INTO job(id, place, lane, priority, created_at, due_at, max_attempts, rerun, codec, args, extras)
        VALUES (ids[n], nextval('place'), lanes[nth], priorities[nth], at, coalesce(at + delays[nth], due[nth], at),
                most[nth], reruns[nth], codecs[nth], arguments[n]::json, extra[nth]::json)
        ON CONFLICT (id) DO NOTHING RETURNING place, due_at INTO new_place, new_due;
        CONTINUE WHEN NOT FOUND;
        created := created || ids[n];
        IF new_due <= at THEN
            INSERT INTO ready(stream, place, id)
            VALUES (lanes[nth]::bigint << 8 | 100 - priorities[nth], new_place, ids[n]);
        ELSE
            INSERT INTO later(due_at, id, stream, fence, attempts, crashes, losses)
            VALUES (new_due, ids[n], lanes[nth]::bigint << 8 | 100 - priorities[nth], 0, 0, 0, 0);
        END IF;
    END LOOP;
    IF cardinality(keepers) > 0 THEN
        INSERT INTO blob(blob, id) SELECT b.blob, b.id FROM unnest(blobs, keepers) b(blob, id)
        WHERE b.id = ANY (created) ON CONFLICT DO NOTHING;
    END IF;
    RETURN CASE WHEN cardinality(created) < cardinality(ids) THEN created END;
END $$;

-- Store jobs that differ in id and arguments only, and keep no blob: nearly every call. True: all are new; false: some are
-- there already, and nothing is stored; NULL: nothing is stored, as it is not lawful, or these are the first of their
-- stream. `enqueue` does then what is to be done. It would do it here too, but its tables of shapes are set up anew in each
-- transaction: three times as long for one job, and a quarter longer for a hundred.
CREATE OR REPLACE FUNCTION {schema}.enqueue_alike(
    of_queue text, of_task text, of_priority smallint, most integer, may_rerun boolean, with_codec integer, extra text,
    due double precision, delay double precision, ids uuid[], arguments text[], moment double precision DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = {schema}, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    at double precision := coalesce(moment, extract(epoch FROM clock_timestamp()));
    new_due double precision := coalesce(at + delay, due, at);
    new_place bigint;
    of_lane integer;
    of_stream bigint;
    writer xid8;
BEGIN
    -- The transaction's id before a place is drawn: see `enqueue`.
    SELECT lane.id, stream.id, pg_current_xact_id() INTO of_lane, of_stream, writer
    FROM lane JOIN stream ON stream.id = lane.id::bigint << 8 | 100 - of_priority
    WHERE lane.queue = of_queue AND lane.task = of_task AND of_priority BETWEEN -100 AND 100 AND most > 0;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF cardinality(ids) = 1 THEN -- the most common of all: without a subtransaction, which takes an id of its own
        new_place := nextval('place');
        INSERT INTO job(id, place, lane, priority, created_at, due_at, max_attempts, rerun, codec, args, extras)
        VALUES (ids[1], new_place, of_lane, of_priority, at, new_due, most, may_rerun, with_codec,
                arguments[1]::json, extra::json)
        ON CONFLICT (id) DO NOTHING;
        IF NOT FOUND THEN
            RETURN false;
        ELSIF new_due <= at THEN
            INSERT INTO ready(stream, place, id) VALUES (of_stream, new_place, ids[1]);
        ELSE
            INSERT INTO later(due_at, id, stream, fence, attempts, crashes, losses)
            VALUES (new_due, ids[1], of_stream, 0, 0, 0, 0);
        END IF;
        RETURN true;
    END IF;
    BEGIN
        WITH new AS ( -- places are drawn in their order
            INSERT INTO job(id, place, lane, priority, created_at, due_at, max_attempts, rerun, codec, args, extras)
            SELECT asked.id, nextval('place'), of_lane, of_priority, at, new_due, most, may_rerun, with_codec,
                   asked.args::json, extra::json
            FROM unnest(ids, arguments) asked(id, args)
            RETURNING id, place
        ), now_ready AS (
            INSERT INTO ready(stream, place, id) SELECT of_stream, new.place, new.id FROM new WHERE new_due <= at
        )
        INSERT INTO later(due_at, id, stream, fence, attempts, crashes, losses)
        SELECT new_due, new.id, of_stream, 0, 0, 0, 0 FROM new WHERE new_due > at;
        RETURN true;
    EXCEPTION WHEN unique_violation THEN
        RETURN false;
    END;
END $$;

-- The writing half of `enqueue`: all of these are new, or none is stored.
CREATE OR REPLACE FUNCTION {schema}.store_jobs(
    lanes integer[], priorities smallint[], most integer[], reruns boolean[], codecs integer[], extra text[],
    due double precision[], delays double precision[], ids uuid[], shapes integer[], arguments text[],
    blobs text[], keepers uuid[], at double precision
) RETURNS void
LANGUAGE plpgsql SET search_path = {schema}, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
    WITH shape AS MATERIALIZED (
        SELECT * FROM unnest(lanes, priorities, most, reruns, codecs, extra, due, delays)
            WITH ORDINALITY s(lane, priority, most, rerun, codec, extra, due, delay, n)
    ), new AS (
        INSERT INTO job(id, place, lane, priority, created_at, due_at, max_attempts, rerun, codec, args, extras)
        SELECT asked.id, nextval('place'), lane, priority, at, coalesce(at + delay, due, at), most, rerun, codec,
               asked.args::json, extra::json
        FROM ( -- places are drawn in this order
            SELECT asked.id, asked.args, shape.* FROM unnest(ids, shapes, arguments)
                WITH ORDINALITY asked(id, shape, args, nth) JOIN shape ON shape.n = asked.shape ORDER BY asked.nth
        ) asked
        RETURNING id, place, lane::bigint << 8 | 100 - priority AS stream, due_at
    ), now_ready AS (
        INSERT INTO ready(stream, place, id) SELECT stream, place, id FROM new WHERE due_at <= at
    ), due_later AS (
        INSERT INTO later(due_at, id, stream, fence, attempts, crashes, losses)
        SELECT due_at, id, stream, 0, 0, 0, 0 FROM new WHERE due_at > at
    )
    INSERT INTO blob(blob, id) SELECT b.blob, new.id FROM unnest(blobs, keepers) b(blob, id) JOIN new USING (id)
    ON CONFLICT DO NOTHING;
END $$;

-- --- claim -----------------------------------------------------------------------------------------

-- The open grants of claims, whole, in one text.
CREATE OR REPLACE FUNCTION {schema}.grants_text(which bigint) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = {schema}, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_seqscan = off AS $$
BEGIN
    RETURN (
        SELECT '[' || string_agg(concat(
            '[', j.place, ',"', upper(encode(uuid_send(m.id), 'hex')), '",', l.label, ',', j.args, ',', j.priority, ',',
            m.fence, ',', m.attempts, ',', m.crashes, ',', m.losses, ',', j.max_attempts,
            CASE WHEN j.rerun THEN ',true,' ELSE ',false,' END, j.due_at, ',', j.codec, ',', which,
            ',' || j.extras::text, ']'
        ), ',' ORDER BY m.n) || ']'
        FROM claim c, unnest(c.ids, c.fences, c.attempts, c.crashes, c.losses)
            WITH ORDINALITY m(id, fence, attempts, crashes, losses, n)
        JOIN job j ON j.id = m.id JOIN lane l ON l.id = j.lane
        WHERE c.id = which
    );
END $$;

-- Make jobs ready that have become due; a bounded number, the longest due first.
CREATE OR REPLACE FUNCTION {schema}.stage(moment double precision DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off AS $$
DECLARE
    at double precision := now_or(moment);
    staged integer;
BEGIN
    PERFORM pg_current_xact_id();
    WITH due AS MATERIALIZED (
        SELECT due_at, id FROM later WHERE due_at <= at ORDER BY due_at, id LIMIT 1000 FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM later USING due WHERE later.due_at = due.due_at AND later.id = due.id RETURNING later.*
    ), ordered AS (
        SELECT * FROM gone ORDER BY due_at, id
    )
    INSERT INTO again(stream, place, id, fence, attempts, crashes, losses, ready_at)
    SELECT stream, nextval('place'), id, fence, attempts, crashes, losses, due_at FROM ordered;
    GET DIAGNOSTICS staged = ROW_COUNT;
    RETURN staged;
END $$;

-- Grant ready jobs of `streams`, those of a lower rank first. Below `bounds` (of ready) and `agains` (of again) the
-- caller knows that nothing is left.
-- It also tells where each stream began, and what is needed to know below which place nothing can come any more.
CREATE OR REPLACE FUNCTION {schema}.claim(
    which bigint, who text, streams bigint[], ranks integer[], bounds bigint[], agains bigint[],
    most integer, fair boolean, moment double precision DEFAULT NULL,
    OUT granted text, OUT next_due double precision, OUT newest integer, OUT last_place bigint,
    OUT oldest_writer xid8, OUT next_writer xid8, OUT began bigint[], OUT began_again bigint[]
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = {schema}, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    at double precision := now_or(moment);
    holder integer;
    taken integer := 0;
    ranked integer;
    got record;
    got_ids uuid[]; got_fences integer[]; got_attempts integer[]; got_crashes integer[]; got_losses integer[];
BEGIN
    -- The last place is read after the writers, so it is no mark together with them: the caller takes that of the call
    -- before.
    SELECT (SELECT n FROM worker WHERE id = who AND state = 'live'),
        (SELECT min(due_at) FROM later), (SELECT max(n) FROM stream), (SELECT last_value FROM place),
        pg_snapshot_xmin(s), pg_snapshot_xmax(s)
    INTO holder, next_due, newest, last_place, oldest_writer, next_writer FROM pg_current_snapshot() s;
    IF holder IS NULL THEN
        RAISE EXCEPTION 'worker % is not registered, or was taken for dead', who USING ERRCODE = 'NC001';
    END IF;
    IF next_due <= at THEN
        PERFORM stage(moment);
        SELECT min(due_at) INTO next_due FROM later;
    END IF;
    FOR ranked IN SELECT DISTINCT r FROM unnest(ranks) r ORDER BY r LOOP
        WITH mine AS MATERIALIZED (
            SELECT stream, bound, again FROM unnest(streams, ranks, bounds, agains) s(stream, rank, bound, again)
            WHERE rank = ranked
        ), some_again AS MATERIALIZED (
            SELECT stream, again FROM mine
            WHERE EXISTS (SELECT FROM again x WHERE x.stream = mine.stream AND x.place >= mine.again)
        ), some_ready AS MATERIALIZED (
            SELECT stream, bound FROM mine
            WHERE EXISTS (SELECT FROM ready x WHERE x.stream = mine.stream AND x.place >= mine.bound)
        ), picked_again AS MATERIALIZED (
            SELECT p.* FROM some_again s, LATERAL (
                SELECT x.ctid AS row, x.place FROM again x WHERE x.stream = s.stream AND x.place >= s.again
                ORDER BY x.place LIMIT share(most - taken, (SELECT count(*) FROM some_again))
                FOR UPDATE SKIP LOCKED
            ) p ORDER BY p.place LIMIT CASE WHEN fair THEN (most - taken + 1) / 2 ELSE most - taken END
        ), picked_ready AS MATERIALIZED (
            SELECT p.* FROM some_ready s, LATERAL (
                SELECT x.ctid AS row, x.place FROM ready x WHERE x.stream = s.stream AND x.place >= s.bound
                ORDER BY x.place LIMIT share(most - taken, (SELECT count(*) FROM some_ready))
                FOR UPDATE SKIP LOCKED
            ) p ORDER BY p.place LIMIT most - taken - (SELECT count(*) FROM picked_again)
        ), gone_again AS MATERIALIZED (
            DELETE FROM again WHERE ctid = ANY (ARRAY(SELECT row FROM picked_again)) RETURNING *
        ), gone_ready AS MATERIALIZED (
            DELETE FROM ready WHERE ctid = ANY (ARRAY(SELECT row FROM picked_ready)) RETURNING *
        ), ordered AS MATERIALIZED (
            SELECT 0 AS line, place, id, fence + 1 AS fence, attempts, crashes, losses FROM gone_again
            UNION ALL SELECT 1, place, id, 1, 0, 0, 0 FROM gone_ready
            ORDER BY line, place
        )
        SELECT count(*) AS n, array_agg(id) AS ids, array_agg(fence) AS fences, array_agg(attempts) AS attempts,
            array_agg(crashes) AS crashes, array_agg(losses) AS losses,
            ARRAY(SELECT unnest(ARRAY[stream, min(place)]) FROM gone_ready GROUP BY stream) AS began,
            ARRAY(SELECT unnest(ARRAY[stream, min(place)]) FROM gone_again GROUP BY stream) AS began_again
        INTO got FROM ordered;
        CONTINUE WHEN got.n = 0;
        taken := taken + got.n;
        got_ids := got_ids || got.ids;
        got_fences := got_fences || got.fences;
        got_attempts := got_attempts || got.attempts;
        got_crashes := got_crashes || got.crashes;
        got_losses := got_losses || got.losses;
        began := began || got.began;
        began_again := began_again || got.began_again;
        EXIT WHEN taken >= most;
    END LOOP;
    IF taken > 0 THEN
        INSERT INTO claim(id, worker, origin, raised, claimed_at, ids, fences, attempts, crashes, losses)
        VALUES (which, holder, holder, 0, at, got_ids, got_fences, got_attempts, got_crashes, got_losses);
        granted := grants_text(which);
    END IF;
END $$;

-- What came of a claim whose answer got lost: its grants; or nothing, and then it will not come later either, as its
-- number is taken. (Such rows are removed by a later sweep.)
CREATE OR REPLACE FUNCTION {schema}.claim_outcome(which bigint, who text, moment double precision DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off AS $$
DECLARE
    holder integer;
BEGIN
    SELECT n INTO holder FROM worker WHERE id = who AND state = 'live';
    IF holder IS NULL THEN
        RAISE EXCEPTION 'worker % is not registered, or was taken for dead', who USING ERRCODE = 'NC001';
    END IF;
    -- If the claim is being made at this moment, this waits for its end.
    INSERT INTO claim(id, worker, origin, raised, claimed_at, ids, fences, attempts, crashes, losses)
    VALUES (which, holder, holder, 0, now_or(moment), '{}', '{}', '{}', '{}', '{}') ON CONFLICT DO NOTHING;
    RETURN grants_text(which);
END $$;

-- How many of one stream to look at, where `streams` of them share the room for `most`.
CREATE OR REPLACE FUNCTION {schema}.share(most integer, streams bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT least(most, greatest(2 * most / greatest(streams, 1), 16)) $$;

-- --- finish and report -----------------------------------------------------------------------------

-- Settle the grants that are still open; answer the numbers of those that are not. Plain successes come as arrays,
-- numbered from 1; all other endings as JSON with a number `n` of their own. What people wrote is JSON within that
-- JSON: what it says may be what a text of PostgreSQL cannot hold.
CREATE OR REPLACE FUNCTION {schema}.finish(
    claims bigint[], ids uuid[], fences integer[], starts double precision[], durations double precision[],
    keeps double precision[], results text[], others json, moment double precision DEFAULT NULL
) RETURNS integer[]
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = {schema}, pg_temp SET jit = off SET plan_cache_mode = force_generic_plan SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    at double precision := now_or(moment);
    refused integer[];
BEGIN
    -- First the locks, in order of id; what is open is then read by statements of their own, which see what
    -- others have settled or taken over meanwhile.
    PERFORM FROM claim WHERE id = ANY (claims) ORDER BY id FOR UPDATE;
    IF others IS NOT NULL THEN
        refused := settle_others(claims, others, at);
    END IF;
    WITH open AS MATERIALIZED (
        SELECT c.id AS claim, c.origin, m.* FROM claim c, unnest(c.ids, c.fences, c.attempts, c.crashes, c.losses)
            WITH ORDINALITY m(id, fence, attempts, crashes, losses, n) WHERE c.id = ANY (claims)
    ), plain AS MATERIALIZED (
        SELECT * FROM unnest(ids, fences, starts, durations, keeps, results)
            WITH ORDINALITY p(id, fence, started, duration, keep, result, n)
    ), held AS MATERIALIZED (
        SELECT o.*, p.n AS nth, p.started, p.duration, p.keep, p.result
        FROM open o LEFT JOIN plain p ON p.id = o.id AND p.fence = o.fence
    ), stored AS (
        INSERT INTO done(id, state, fence, attempts, crashes, losses, worker, started_at, duration, finished_at,
                         expires_at, result)
        SELECT id, 3, fence, attempts + 1, crashes, losses, origin, started, duration, at, at + keep, result::json
        FROM held WHERE nth IS NOT NULL
    ), rest AS MATERIALIZED (
        SELECT claim, array_agg(id ORDER BY n) AS ids, array_agg(fence ORDER BY n) AS fences,
            array_agg(attempts ORDER BY n) AS attempts, array_agg(crashes ORDER BY n) AS crashes,
            array_agg(losses ORDER BY n) AS losses
        FROM held WHERE nth IS NULL GROUP BY claim
    ), shrunk AS (
        UPDATE claim c SET ids = r.ids, fences = r.fences, attempts = r.attempts, crashes = r.crashes,
            losses = r.losses
        FROM rest r WHERE c.id = r.claim AND cardinality(c.ids) > cardinality(r.ids)
    ), emptied AS (
        DELETE FROM claim c WHERE c.id = ANY (claims) AND NOT EXISTS (SELECT FROM rest r WHERE r.claim = c.id)
    )
    SELECT coalesce(refused, '{}') || array_agg(p.n::integer) INTO refused
    FROM plain p WHERE NOT EXISTS (SELECT FROM held h WHERE h.nth = p.n);
    IF EXISTS (SELECT FROM cancel) THEN
        DELETE FROM cancel WHERE id = ANY (ids) AND EXISTS (SELECT FROM done WHERE done.id = cancel.id);
    END IF;
    RETURN refused;
END $$;

-- The endings that are no plain success, of claims that are locked: they take their members out.
CREATE OR REPLACE FUNCTION {schema}.settle_others(claims bigint[], others json, at double precision)
RETURNS integer[]
LANGUAGE plpgsql SET search_path = {schema}, pg_temp SET jit = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    refused integer[];
BEGIN
    PERFORM pg_current_xact_id();
    WITH asked AS MATERIALIZED (
        SELECT * FROM json_to_recordset(others) AS a(
            n integer, id uuid, fence integer, state smallint, outcome text, attempt integer, attempts integer,
            crashes integer, losses integer, delay double precision, keep double precision,
            started double precision, duration double precision, result text, reason text, error text, blobs json, trace boolean,
            fingerprint text
        )
    ), open AS MATERIALIZED (
        SELECT c.id AS claim, c.origin, m.* FROM claim c, unnest(c.ids, c.fences, c.attempts, c.crashes, c.losses)
            WITH ORDINALITY m(id, fence, attempts, crashes, losses, m) WHERE c.id = ANY (claims)
    ), held AS MATERIALIZED (
        SELECT DISTINCT ON (o.id) a.*, o.claim, o.origin, o.m, j.lane::bigint << 8 | 100 - j.priority AS stream,
            -- It was asked to stop and would come back instead: then it is cancelled.
            CASE WHEN a.state = 1 AND EXISTS (SELECT FROM cancel WHERE cancel.id = o.id) THEN 5 ELSE a.state END
            AS becomes
        FROM open o JOIN asked a ON a.id = o.id AND a.fence = o.fence JOIN job j ON j.id = o.id
        ORDER BY o.id, a.n
    ), stored AS (
        INSERT INTO done(id, state, fence, attempts, crashes, losses, worker, started_at, duration, finished_at,
                         expires_at, result)
        SELECT id, becomes, fence, attempts, crashes, losses, origin, started, duration, at, at + keep, result::json
        FROM held WHERE becomes <> 1 ON CONFLICT DO NOTHING
    ), lined_up AS (
        INSERT INTO again(stream, place, id, fence, attempts, crashes, losses, ready_at)
        SELECT stream, nextval('place'), id, fence, attempts, crashes, losses, at
        FROM (SELECT * FROM held WHERE becomes = 1 AND delay <= 0 ORDER BY claim, m) h
    ), put_off AS (
        INSERT INTO later(due_at, id, stream, fence, attempts, crashes, losses)
        SELECT at + delay, id, stream, fence, attempts, crashes, losses FROM held WHERE becomes = 1 AND delay > 0
    ), kept AS (
        INSERT INTO attempt(id, fence, attempt, outcome, reason, error, worker, started_at, ended_at)
        SELECT id, fence, attempt, outcome, reason::json, error::json, origin, started, at
        FROM held WHERE outcome <> 'succeeded' AND (becomes <> 1 OR trace)
        ON CONFLICT DO NOTHING
    ), failed AS (
        INSERT INTO failure(id, fingerprint, failed_at)
        SELECT id, fingerprint, at FROM held WHERE becomes = 4 AND fingerprint IS NOT NULL ON CONFLICT DO NOTHING
    ), kept_blobs AS (
        INSERT INTO blob(blob, id) SELECT json_array_elements_text(blobs), id FROM held ON CONFLICT DO NOTHING
    ), uncancelled AS (
        DELETE FROM cancel USING held WHERE cancel.id = held.id
    ), rest AS MATERIALIZED (
        SELECT o.claim, array_agg(o.id ORDER BY o.m) FILTER (WHERE h.id IS NULL) AS ids,
            array_agg(o.fence ORDER BY o.m) FILTER (WHERE h.id IS NULL) AS fences,
            array_agg(o.attempts ORDER BY o.m) FILTER (WHERE h.id IS NULL) AS attempts,
            array_agg(o.crashes ORDER BY o.m) FILTER (WHERE h.id IS NULL) AS crashes,
            array_agg(o.losses ORDER BY o.m) FILTER (WHERE h.id IS NULL) AS losses
        FROM open o LEFT JOIN held h ON h.id = o.id GROUP BY o.claim
    ), shrunk AS (
        UPDATE claim c SET ids = coalesce(r.ids, '{}'), fences = coalesce(r.fences, '{}'),
            attempts = coalesce(r.attempts, '{}'), crashes = coalesce(r.crashes, '{}'),
            losses = coalesce(r.losses, '{}')
        FROM rest r WHERE c.id = r.claim
    )
    SELECT array_agg(a.n) INTO refused FROM asked a
    WHERE NOT EXISTS (SELECT FROM held h WHERE h.id = a.id AND h.fence = a.fence);
    RETURN refused;
END $$;

-- Which of these grants were settled before by whoever held them: the answer got lost. NULL where there is none.
CREATE OR REPLACE FUNCTION {schema}.settled(asked_ids uuid[], asked_fences integer[]) RETURNS boolean[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off AS $$
    SELECT array_agg(
        EXISTS (SELECT FROM done WHERE done.id = a.id AND done.fence = a.fence)
        OR EXISTS (SELECT FROM attempt WHERE attempt.id = a.id AND attempt.fence = a.fence) ORDER BY n
    ) FROM unnest(asked_ids, asked_fences) WITH ORDINALITY a(id, fence, n)
$$;

-- Store what running jobs say where the fence still holds; answer for each whether it did.
CREATE OR REPLACE FUNCTION {schema}.report(claims bigint[], reports json, most integer) RETURNS boolean[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    r record;
    answers boolean[] := '{}';
    last integer;
BEGIN
    PERFORM FROM claim WHERE id = ANY (claims) ORDER BY id FOR SHARE;
    FOR r IN
        SELECT a.*, EXISTS (
            SELECT FROM claim c, unnest(c.ids, c.fences) m(id, fence)
            WHERE c.id = a.claim AND m.id = a.id AND m.fence = a.fence
        ) AS held
        FROM json_to_recordset(reports) AS a(
            n integer, claim bigint, id uuid, fence integer, progress double precision, text text, checkpoint text,
            log json
        ) ORDER BY a.n
    LOOP
        answers := answers || r.held;
        CONTINUE WHEN NOT r.held;
        IF r.progress IS NOT NULL OR r.text IS NOT NULL OR r.checkpoint IS NOT NULL THEN
            INSERT INTO note(id, progress, text, checkpoint) VALUES (r.id, r.progress, r.text::json, r.checkpoint::json)
            ON CONFLICT (id) DO UPDATE SET progress = coalesce(excluded.progress, note.progress),
                text = coalesce(excluded.text, note.text),
                checkpoint = coalesce(excluded.checkpoint, note.checkpoint);
        END IF;
        IF r.log IS NOT NULL THEN
            SELECT coalesce(max(n), 0) INTO last FROM log WHERE id = r.id;
            INSERT INTO log(id, n, at, level, text)
            SELECT r.id, last + l.n, (line->>0)::double precision, line->>1,
                CASE WHEN last + l.n < most THEN (line->>2)::json
                     ELSE to_json(format('(more than %s lines: the rest is dropped)', most)) END
            FROM json_array_elements(r.log) WITH ORDINALITY l(line, n) WHERE last + l.n <= most;
        END IF;
    END LOOP;
    RETURN answers;
END $$;

-- --- workers and upkeep ----------------------------------------------------------------------------

-- Take a heartbeat; register a worker that is new. Answers whether it was taken for dead, and which of its jobs
-- somebody asked to cancel.
CREATE OR REPLACE FUNCTION {schema}.renew(
    who text, on_host text, on_boot text, journals text, leased double precision, says json,
    moment double precision DEFAULT NULL, OUT lost boolean, OUT cancelled text[], OUT cancelled_fences integer[]
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off AS $$
DECLARE
    at double precision := now_or(moment);
    known worker;
BEGIN
    SELECT * INTO known FROM worker WHERE id = who;
    IF NOT FOUND THEN
        INSERT INTO worker(id, state, host, boot, journal, beat, lease, started_at, status)
        VALUES (who, 'live', on_host, on_boot, journals, at, leased, at, says) ON CONFLICT (id) DO NOTHING;
        lost := false;
        RETURN;
    END IF;
    UPDATE worker SET beat = at, lease = leased, status = says WHERE n = known.n AND state = 'live';
    lost := NOT FOUND;
    IF NOT lost AND EXISTS (SELECT FROM cancel) THEN
        SELECT array_agg(m.id::text), array_agg(m.fence) INTO cancelled, cancelled_fences
        FROM claim c, unnest(c.ids, c.fences) m(id, fence) JOIN cancel ON cancel.id = m.id WHERE c.worker = known.n;
    END IF;
END $$;

-- The same, and what people have decided about queues and this worker: as they wrote it, with the time by which it is to
-- be read.
CREATE OR REPLACE FUNCTION {schema}.heartbeat(
    who text, on_host text, on_boot text, journals text, leased double precision, says json, figures json,
    latest double precision, moment double precision DEFAULT NULL,
    OUT lost boolean, OUT cancelled text[], OUT cancelled_fences integer[],
    OUT queues text[], OUT notes text[], OUT wanted text, OUT read_at double precision
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off AS $$
BEGIN
    read_at := now_or(moment);
    SELECT r.* INTO lost, cancelled, cancelled_fences
    FROM renew(who, on_host, on_boot, journals, leased, says, moment) r;
    SELECT array_agg(key ORDER BY key), array_agg(value::text ORDER BY key) INTO queues, notes
    FROM document WHERE kind = 'queue';
    SELECT value::text INTO wanted FROM document WHERE kind = 'worker' AND key = who;
    IF figures IS NOT NULL AND NOT lost THEN
        -- Figures only grow: one that comes late must not replace a later one.
        INSERT INTO tally AS t (step, at, lane, worker, succeeded, failed, retried, other, waits, runs)
        SELECT 60, f.at::bigint, l.id, w.n, f.succeeded, f.failed, f.retried, f.other,
            ARRAY(SELECT json_array_elements_text(f.waits)::bigint), ARRAY(SELECT json_array_elements_text(f.runs)::bigint)
        FROM json_to_recordset(figures) AS f(
            at double precision, task text, queue text, succeeded bigint, failed bigint, retried bigint, other bigint, waits json,
            runs json
        ) JOIN lane l ON l.queue = f.queue AND l.task = f.task JOIN worker w ON w.id = who
        WHERE f.at BETWEEN read_at - latest AND read_at + latest
        ON CONFLICT (step, at, lane, worker) DO UPDATE SET succeeded = excluded.succeeded, failed = excluded.failed,
            retried = excluded.retried, other = excluded.other, waits = excluded.waits, runs = excluded.runs
        WHERE excluded.succeeded + excluded.failed + excluded.retried + excluded.other
            > t.succeeded + t.failed + t.retried + t.other;
    END IF;
END $$;

-- As workers of the version before say it, which count nothing.
CREATE OR REPLACE FUNCTION {schema}.heartbeat(
    who text, on_host text, on_boot text, journals text, leased double precision, says json,
    moment double precision DEFAULT NULL, OUT lost boolean, OUT cancelled text[], OUT cancelled_fences integer[],
    OUT queues text[], OUT notes text[], OUT wanted text, OUT at double precision
)
LANGUAGE sql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off AS $$
    SELECT * FROM heartbeat(who, on_host, on_boot, journals, leased, says, NULL::json, 0, moment)
$$;

-- Make the oldest figures of `fine` seconds into one of `coarse`, for all workers, once they are `age` seconds old. Answers
-- whether there were some. Nothing comes later for a time that is over so long.
CREATE OR REPLACE FUNCTION {schema}.join_tallies(
    fine integer, coarse integer, age double precision, moment double precision DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    began bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.tallies', 0)) THEN
        RETURN false; -- somebody else is at it
    END IF;
    SELECT min(at) / coarse * coarse INTO began FROM tally WHERE step = fine;
    IF began IS NULL OR began + coarse + age > now_or(moment) THEN
        RETURN false;
    END IF;
    WITH gone AS (
        DELETE FROM tally WHERE step = fine AND at >= began AND at < began + coarse RETURNING *
    ), waited AS (
        SELECT lane, array_agg(sum ORDER BY n) AS waits FROM (
            SELECT lane, n, sum(v) FROM gone, unnest(waits) WITH ORDINALITY u(v, n) GROUP BY lane, n
        ) x GROUP BY lane
    ), ran AS (
        SELECT lane, array_agg(sum ORDER BY n) AS runs FROM (
            SELECT lane, n, sum(v) FROM gone, unnest(runs) WITH ORDINALITY u(v, n) GROUP BY lane, n
        ) x GROUP BY lane
    ), summed AS (
        SELECT lane, sum(succeeded) AS succeeded, sum(failed) AS failed, sum(retried) AS retried, sum(other) AS other
        FROM gone GROUP BY lane
    )
    INSERT INTO tally(step, at, lane, worker, succeeded, failed, retried, other, waits, runs)
    SELECT coarse, began, lane, 0, succeeded, failed, retried, other, coalesce(waits, '{}'), coalesce(runs, '{}')
    FROM summed LEFT JOIN waited USING (lane) LEFT JOIN ran USING (lane)
    ON CONFLICT DO NOTHING;
    RETURN true;
END $$;

-- Forget figures of so many seconds that are older than `age`.
CREATE OR REPLACE FUNCTION {schema}.forget_tallies(
    coarse integer, age double precision, moment double precision DEFAULT NULL
) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off AS $$
    DELETE FROM tally WHERE step = coarse AND at < now_or(moment) - age
$$;

-- Take a worker off the list. One that still holds grants is left to be rescued.
CREATE OR REPLACE FUNCTION {schema}.retire(who text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off AS $$
    DELETE FROM document WHERE kind = 'worker' AND key = who;
    UPDATE worker SET state = CASE WHEN EXISTS (SELECT FROM claim WHERE claim.worker = worker.n AND cardinality(ids) > 0)
        THEN 'dead' ELSE 'gone' END
    WHERE id = who AND state = 'live'
$$;

-- Take for dead: workers whose lease is over, those of before a restart of this host, and those named. Take over
-- what they held, some claims at a time; make due jobs ready. `number` is higher than in any sweep of this
-- worker before.
CREATE OR REPLACE FUNCTION {schema}.sweep(
    number bigint, who text, dead text[], most integer, moment double precision DEFAULT NULL,
    OUT staged integer, OUT taken bigint
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off AS $$
DECLARE
    at double precision := now_or(moment);
    me worker;
    one record;
    members integer := 0;
BEGIN
    staged := 0;
    SELECT * INTO me FROM worker WHERE id = who AND state = 'live';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'worker % is not registered, or was taken for dead', who USING ERRCODE = 'NC001';
    END IF;
    IF EXISTS (SELECT FROM later WHERE due_at <= at) THEN
        staged := stage(moment);
    END IF;
    UPDATE worker SET state = 'dead' WHERE state = 'live' AND n <> me.n
        AND (beat + lease < at OR id = ANY (dead) OR host = me.host AND boot <> me.boot);
    DELETE FROM claim WHERE cardinality(ids) = 0 AND claimed_at < at - 3600; -- see `claim_outcome`
    -- What was asked of workers that are no more.
    DELETE FROM document d WHERE kind = 'worker'
        AND NOT EXISTS (SELECT FROM worker w WHERE w.id = d.key AND w.state = 'live');
    IF EXISTS (SELECT FROM claim LEFT JOIN worker ON worker.n = claim.worker WHERE worker.state IS DISTINCT FROM 'live')
    THEN
        -- Who asks what came of this sweep waits for this lock, or has ruled it out.
        SELECT * INTO me FROM worker WHERE n = me.n FOR SHARE;
    END IF;
    -- The lock first, and the members by the row as it is then: a finish may have come first.
    FOR one IN
        SELECT claim.id FROM claim LEFT JOIN worker ON worker.n = claim.worker
        WHERE worker.state IS DISTINCT FROM 'live' AND me.swept < number LIMIT 50 FOR UPDATE OF claim SKIP LOCKED
    LOOP
        -- The claim becomes the sweeper's own, with every fence raised: from here on the dead worker's writes
        -- are refused. Should the sweeper die too, the next one finds it again, and still sees who had run it.
        UPDATE claim SET worker = me.n, raised = raised + 1, sweep = number,
            fences = ARRAY(SELECT f + 1 FROM unnest(fences) WITH ORDINALITY u(f, n) ORDER BY n)
        WHERE id = one.id;
        members := members + (SELECT cardinality(ids) FROM claim WHERE id = one.id);
        EXIT WHEN members >= most;
    END LOOP;
    SELECT count(*) INTO taken FROM claim WHERE sweep = number;
END $$;

-- What came of a sweep whose answer got lost: how many claims it has taken over. Later it takes none any more.
CREATE OR REPLACE FUNCTION {schema}.sweep_outcome(number bigint, who text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off AS $$
BEGIN
    UPDATE worker SET swept = greatest(swept, number) WHERE id = who;
    RETURN (SELECT count(*) FROM claim WHERE sweep = number);
END $$;

-- What a sweep has taken over.
CREATE OR REPLACE FUNCTION {schema}.swept(number bigint) RETURNS TABLE (
    place bigint, hex text, task text, queue text, args text, priority smallint, fence integer, attempts integer,
    crashes integer, losses integer, max_attempts integer, rerun boolean, codec integer, claim bigint, extras text,
    worker text, former integer, journal text, cancelled boolean
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off AS $$
    SELECT j.place, upper(encode(uuid_send(j.id), 'hex')), l.task, l.queue, j.args::text, j.priority, m.fence, m.attempts,
        m.crashes, m.losses, j.max_attempts, j.rerun, j.codec, c.id, j.extras::text,
        coalesce(w.id, ''), m.fence - c.raised, w.journal, EXISTS (SELECT FROM cancel WHERE cancel.id = j.id)
    FROM claim c CROSS JOIN LATERAL unnest(c.ids, c.fences, c.attempts, c.crashes, c.losses)
        WITH ORDINALITY m(id, fence, attempts, crashes, losses, n)
    JOIN job j ON j.id = m.id JOIN lane l ON l.id = j.lane LEFT JOIN worker w ON w.n = c.origin
    WHERE c.sweep = number ORDER BY c.id, m.n
$$;

-- Delete a few finished jobs whose time is up, going on after `hand`; NULL begins a round. Answers where the hand
-- is then (NULL: the round is over), how many went, and the blobs that nobody needs any more.
CREATE OR REPLACE FUNCTION {schema}.prune(
    INOUT hand uuid, most integer, moment double precision DEFAULT NULL, OUT pruned integer, OUT unused text[]
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off AS $$
DECLARE
    at double precision := now_or(moment);
    past uuid;
    seen uuid[];
    expired uuid[];
    blobs text[];
BEGIN
    pruned := 0;
    unused := '{}';
    hand := coalesce(hand, '00000000-0000-0000-0000-000000000000');
    SELECT high INTO past FROM day WHERE hand >= low AND hand < high AND look_at < at + 86400;
    hand := coalesce(past, hand); -- all of that day goes at once, and soon
    SELECT array_agg(d.id ORDER BY d.id), array_agg(d.id) FILTER (WHERE d.expires_at <= at) INTO seen, expired
    FROM (SELECT id, expires_at FROM done WHERE id > hand ORDER BY id LIMIT most) d;
    hand := CASE WHEN cardinality(seen) = most THEN seen[most] END;
    IF expired IS NULL THEN
        RETURN;
    END IF;
    -- Who retries one at this moment comes first or finds nothing: both lock the row of `done`.
    WITH gone AS (DELETE FROM done WHERE id = ANY (expired) AND expires_at <= at RETURNING id)
    SELECT array_agg(id) INTO expired FROM gone;
    WITH gone AS (DELETE FROM blob WHERE id = ANY (expired) RETURNING blob) SELECT array_agg(DISTINCT blob) INTO blobs FROM gone;
    DELETE FROM cancel WHERE id = ANY (expired);
    DELETE FROM failure WHERE id = ANY (expired);
    DELETE FROM log WHERE id = ANY (expired);
    DELETE FROM note WHERE id = ANY (expired);
    DELETE FROM attempt WHERE id = ANY (expired);
    DELETE FROM job WHERE id = ANY (expired);
    pruned := coalesce(cardinality(expired), 0);
    IF blobs IS NOT NULL THEN
        unused := ARRAY(SELECT b FROM unnest(blobs) b WHERE NOT EXISTS (SELECT FROM blob WHERE blob.blob = b) ORDER BY b);
    END IF;
END $$;

-- --- what people ask for ---------------------------------------------------------------------------

-- Cancel a job: at once if it waits, else its worker is asked. Answers done, requested, unchanged or missing.
CREATE OR REPLACE FUNCTION {schema}.cancel_job(which uuid, keep double precision, moment double precision DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off AS $$
DECLARE
    at double precision := now_or(moment);
    body job;
    had record;
BEGIN
    SELECT * INTO body FROM job WHERE id = which;
    IF NOT FOUND THEN
        RETURN 'missing';
    END IF;
    -- A job may move between the tables while we look from one to the next: then look again.
    LOOP
        IF EXISTS (SELECT FROM done WHERE id = which) THEN
            RETURN 'unchanged';
        END IF;
        DELETE FROM ready WHERE stream = body.lane::bigint << 8 | 100 - body.priority AND place = body.place
        RETURNING 0 AS fence, 0 AS attempts INTO had;
        EXIT WHEN FOUND;
        DELETE FROM again WHERE id = which RETURNING fence, attempts INTO had;
        EXIT WHEN FOUND;
        DELETE FROM later WHERE id = which RETURNING fence, attempts INTO had;
        EXIT WHEN FOUND;
        -- Who settles it holds this lock too: it sees what we write here, or has settled it before.
        PERFORM FROM claim WHERE which = ANY (ids) FOR SHARE;
        IF FOUND THEN
            INSERT INTO cancel(id, at) VALUES (which, at) ON CONFLICT DO NOTHING;
            RETURN 'requested';
        END IF;
    END LOOP;
    INSERT INTO done(id, state, fence, attempts, crashes, losses, finished_at, expires_at)
    VALUES (which, 5, had.fence + 1, had.attempts, 0, 0, at, at + keep);
    INSERT INTO attempt(id, fence, attempt, outcome, reason, ended_at)
    VALUES (which, had.fence + 1, had.attempts, 'cancelled', to_json('cancelled before it ran'::text), at);
    RETURN 'done';
END $$;

-- Run a failed or cancelled job again, with its attempts counted anew.
CREATE OR REPLACE FUNCTION {schema}.retry_job(which uuid, moment double precision DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off AS $$
DECLARE
    at double precision := now_or(moment);
    body job;
    was integer;
BEGIN
    PERFORM pg_current_xact_id();
    SELECT * INTO body FROM job WHERE id = which;
    IF NOT FOUND THEN
        RETURN 'missing';
    END IF;
    DELETE FROM done WHERE id = which AND state <> 3 RETURNING fence INTO was;
    IF NOT FOUND THEN
        RETURN 'unchanged';
    END IF;
    DELETE FROM cancel WHERE id = which;
    DELETE FROM failure WHERE id = which;
    INSERT INTO again(stream, place, id, fence, attempts, crashes, losses, ready_at)
    VALUES (body.lane::bigint << 8 | 100 - body.priority, nextval('place'), which, was, 0, 0, 0, at);
    RETURN 'done';
END $$;

-- --- documents -------------------------------------------------------------------------------------

-- Store a document, or with NULL delete it, if it is still of the version that is expected: 0 for none, NULL for
-- whatever is there. Answers whether it was, and the version that is there now. A repeated `call` is known again.
CREATE OR REPLACE FUNCTION {schema}.save_document(
    of_kind text, of_key text, content text, expected bigint, call uuid, moment double precision DEFAULT NULL,
    OUT saved boolean, OUT now_there bigint
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET enable_seqscan = off AS $$
DECLARE
    at double precision := now_or(moment);
    had document;
BEGIN
    LOOP
        SELECT * INTO had FROM document WHERE kind = of_kind AND key = of_key FOR UPDATE;
        now_there := coalesce(had.version, 0);
        saved := had.saved_by IS NOT DISTINCT FROM call OR expected IS NULL OR expected = now_there;
        IF NOT saved OR had.saved_by = call THEN
            RETURN;
        ELSIF content IS NULL THEN
            DELETE FROM document WHERE kind = of_kind AND key = of_key;
            now_there := 0;
            RETURN;
        ELSIF had.version IS NOT NULL THEN
            UPDATE document SET version = nextval('document_version'), saved_by = call, value = content::json,
                changed_at = at
            WHERE kind = of_kind AND key = of_key RETURNING version INTO now_there;
            RETURN;
        END IF;
        -- Who makes the same one at this moment is waited for; then it is there, and is looked at again.
        INSERT INTO document(kind, key, version, saved_by, value, changed_at)
        VALUES (of_kind, of_key, nextval('document_version'), call, content::json, at)
        ON CONFLICT DO NOTHING RETURNING version INTO now_there;
        IF FOUND THEN
            RETURN;
        END IF;
    END LOOP;
END $$;

-- --- partitions ------------------------------------------------------------------------------------

-- The lowest id of a moment.
CREATE OR REPLACE FUNCTION {schema}.lowest_id(moment double precision) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((moment * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Make the partitions of the days to come. One at a time, and never waiting long for a lock: everybody else would wait
-- behind it. What could not be made now is made next time; until then jobs go to `job_other`.
CREATE OR REPLACE FUNCTION {schema}.make_partitions(moment double precision DEFAULT NULL, ahead integer DEFAULT 7)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET lock_timeout = '200ms' AS $$
DECLARE
    today bigint := floor(now_or(moment) / 86400);
    name text;
    low uuid;
    high uuid;
BEGIN
    FOR day IN today..today + ahead LOOP
        name := to_char(to_timestamp(day * 86400) AT TIME ZONE 'UTC', 'YYYYMMDD');
        CONTINUE WHEN to_regclass('done_' || name) IS NOT NULL;
        EXIT WHEN NOT pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.partitions', 0));
        low := lowest_id(day * 86400);
        high := lowest_id((day + 1) * 86400);
        -- Somebody's clock is ahead: what is there stays in `job_other`, and so does that day.
        CONTINUE WHEN EXISTS (SELECT FROM job_other WHERE id >= low AND id < high);
        BEGIN
            EXECUTE format('CREATE TABLE job_%s PARTITION OF job FOR VALUES FROM (%L) TO (%L)', name, low, high);
            EXECUTE format('CREATE TABLE done_%s PARTITION OF done FOR VALUES FROM (%L) TO (%L)', name, low, high);
        EXCEPTION WHEN lock_not_available OR check_violation OR deadlock_detected THEN
            RAISE LOG 'nightcrew: partition % is left for later: %', name, SQLERRM;
        END;
    END LOOP;
END $$;

-- Take the oldest day off its tables, if all of it is over. To look takes a while and is done without a lock; then it
-- is taken off in a moment. What was retried or enqueued in between is found by `drop_day`.
CREATE OR REPLACE FUNCTION {schema}.retire_day(moment double precision DEFAULT NULL) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET lock_timeout = '200ms' AS $$
#variable_conflict use_column
DECLARE
    at double precision := now_or(moment);
    oldest text;
    began double precision;
    from_id uuid;
    to_id uuid;
    ended double precision;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.partitions', 0)) THEN
        RETURN NULL;
    END IF;
    FOR oldest IN
        SELECT substr(c.relname, 6) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'done'::regclass AND c.relname ~ '^done_[0-9]{8}$' ORDER BY c.relname
    LOOP
        began := extract(epoch FROM to_timestamp(oldest || ' 00+00', 'YYYYMMDD HH24TZH'));
        EXIT WHEN began + 2 * 86400 > at; -- a day's ids may come a little late
        CONTINUE WHEN EXISTS (SELECT FROM day WHERE name = oldest AND look_at > at);
        from_id := lowest_id(began);
        to_id := lowest_id(began + 86400);
        EXECUTE format('SELECT max(expires_at) FROM done_%s', oldest) INTO ended;
        IF EXISTS (
            SELECT FROM job j WHERE j.id >= from_id AND j.id < to_id
            AND NOT EXISTS (SELECT FROM done d WHERE d.id = j.id AND d.id >= from_id AND d.id < to_id)
        ) THEN
            ended := at + 86400; -- something still waits or runs
        END IF;
        IF ended > at THEN
            INSERT INTO day(name, low, high, look_at) VALUES (oldest, from_id, to_id, ended)
            ON CONFLICT (name) DO UPDATE SET look_at = excluded.look_at;
            CONTINUE;
        END IF;
        BEGIN
            EXECUTE format('ALTER TABLE job DETACH PARTITION job_%s', oldest);
            EXECUTE format('ALTER TABLE done DETACH PARTITION done_%s', oldest);
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            RETURN NULL;
        END;
        RETURN oldest;
    END LOOP;
    RETURN NULL;
END $$;

-- Drop days that were taken off: with all that belongs to their jobs. Those that came to life again in the last moment
-- are put back. Answers the blobs that nobody needs any more.
CREATE OR REPLACE FUNCTION {schema}.drop_days() RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET jit = off SET lock_timeout = '200ms' AS $$
#variable_conflict use_column
DECLARE
    gone text;
    lowest uuid;
    highest uuid;
    freed text[];
    blobs text[] := '{}';
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.partitions', 0)) THEN
        RETURN '{}';
    END IF;
    FOR gone IN
        SELECT substr(c.relname, 5) FROM pg_class c
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relname ~ '^job_[0-9]{8}$' AND NOT c.relispartition
    LOOP
        CONTINUE WHEN to_regclass('done_' || gone) IS NULL;
        EXECUTE format(
            'INSERT INTO job SELECT j.* FROM job_%1$s j WHERE NOT EXISTS (SELECT FROM done_%1$s d WHERE d.id = j.id)',
            gone
        );
        EXECUTE format('SELECT min(id::text)::uuid, max(id::text)::uuid FROM job_%s', gone) INTO lowest, highest;
        EXECUTE format('DROP TABLE job_%1$s, done_%1$s', gone);
        DELETE FROM day WHERE name = gone;
        DELETE FROM attempt a WHERE id BETWEEN lowest AND highest AND NOT EXISTS (SELECT FROM job WHERE job.id = a.id);
        DELETE FROM note a WHERE id BETWEEN lowest AND highest AND NOT EXISTS (SELECT FROM job WHERE job.id = a.id);
        DELETE FROM log a WHERE id BETWEEN lowest AND highest AND NOT EXISTS (SELECT FROM job WHERE job.id = a.id);
        DELETE FROM failure a WHERE id BETWEEN lowest AND highest AND NOT EXISTS (SELECT FROM job WHERE job.id = a.id);
        DELETE FROM cancel a WHERE id BETWEEN lowest AND highest AND NOT EXISTS (SELECT FROM job WHERE job.id = a.id);
        WITH unneeded AS (
            DELETE FROM blob a WHERE id BETWEEN lowest AND highest AND NOT EXISTS (SELECT FROM job WHERE job.id = a.id)
            RETURNING blob
        )
        SELECT array_agg(DISTINCT blob) INTO freed FROM unneeded;
        blobs := blobs || freed;
    END LOOP;
    RETURN ARRAY(SELECT DISTINCT b FROM unnest(blobs) b WHERE NOT EXISTS (SELECT FROM blob WHERE blob.blob = b) ORDER BY b);
END $$;
