-- One job passes: job + ready -> (claim) -> done. Nothing indexed is ever updated, and the tables that
-- every claim reads hold only what waits, however long the history is. Each call of an engine is one
-- function here, so one round trip and one transaction: it works alike on a connection of ours, in the
-- caller's transaction, behind a transaction pooler, and for roles that may not touch a table.
--
-- {schema} is replaced by the schema's name.

-- A (queue, task) pair.
CREATE TABLE {schema}.lane (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL,
    task text NOT NULL,
    label text NOT NULL, -- both names as JSON, for the claim's one big text
    UNIQUE (queue, task)
);

-- A lane at one priority that has been used: lane << 8 | (100 - priority). Never deleted.
CREATE TABLE {schema}.stream (
    id bigint PRIMARY KEY,
    n integer GENERATED ALWAYS AS IDENTITY
);

CREATE SEQUENCE {schema}.place; -- in the line: of jobs, and of those that line up again

-- What was asked for. Never changed. By the time in the id, so that history goes by dropping partitions. (No CHECK
-- here: the server reads it anew for every statement. `enqueue` refuses what is not lawful.)
CREATE TABLE {schema}.job (
    id uuid PRIMARY KEY,
    place bigint NOT NULL,
    lane integer NOT NULL,
    priority smallint NOT NULL,
    created_at double precision NOT NULL,
    due_at double precision NOT NULL,
    max_attempts integer NOT NULL,
    rerun boolean NOT NULL,
    codec integer NOT NULL,
    args json NOT NULL, -- json and not jsonb: kept as it was sent
    extras json
) PARTITION BY RANGE (id);

-- How it ended. state: 3 succeeded, 4 failed, 5 cancelled.
CREATE TABLE {schema}.done (
    id uuid PRIMARY KEY,
    state smallint NOT NULL,
    fence integer NOT NULL,
    attempts integer NOT NULL,
    crashes integer NOT NULL,
    losses integer NOT NULL,
    worker integer,
    started_at double precision,
    duration double precision,
    finished_at double precision NOT NULL,
    expires_at double precision NOT NULL,
    result json
) PARTITION BY RANGE (id);
CREATE INDEX done_unsuccessful ON {schema}.done (state, id) WHERE state <> 3;

-- Whose id tells no time that we keep partitions for: made elsewhere, or by a clock that is wrong.
CREATE TABLE {schema}.job_other PARTITION OF {schema}.job DEFAULT;
CREATE TABLE {schema}.done_other PARTITION OF {schema}.done DEFAULT;

-- Days that are over, and when it is worth looking again whether all of theirs is. Below it nothing is pruned by row
-- that will soon go with its partition.
CREATE TABLE {schema}.day (
    name text PRIMARY KEY,
    low uuid NOT NULL,
    high uuid NOT NULL,
    look_at double precision NOT NULL
);

-- May run now, for the first time.
CREATE TABLE {schema}.ready (
    stream bigint NOT NULL,
    place bigint NOT NULL,
    id uuid NOT NULL,
    PRIMARY KEY (stream, place)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- May run now, once more or after a time: it goes before those of `ready`. A place of its own, because one
-- that was given back with its old number would lie below what every worker has seen already.
CREATE TABLE {schema}.again (
    stream bigint NOT NULL,
    place bigint NOT NULL,
    id uuid NOT NULL UNIQUE,
    fence integer NOT NULL, -- the last one granted
    attempts integer NOT NULL,
    crashes integer NOT NULL,
    losses integer NOT NULL,
    ready_at double precision NOT NULL,
    PRIMARY KEY (stream, place)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- May run once it is due.
CREATE TABLE {schema}.later (
    due_at double precision NOT NULL,
    id uuid NOT NULL UNIQUE,
    stream bigint NOT NULL,
    fence integer NOT NULL,
    attempts integer NOT NULL,
    crashes integer NOT NULL,
    losses integer NOT NULL,
    PRIMARY KEY (due_at, id)
);

-- One row a claimed batch. Its members are the open grants: settling one takes it out.
CREATE TABLE {schema}.claim (
    id bigint PRIMARY KEY,
    worker integer NOT NULL, -- who holds it
    origin integer NOT NULL, -- who ran it: differs from the holder once a sweeper has taken it over
    raised integer NOT NULL, -- how often sweepers have raised its fences since
    sweep bigint, -- the sweep that took it over last
    claimed_at double precision NOT NULL,
    ids uuid[] NOT NULL,
    fences integer[] NOT NULL,
    attempts integer[] NOT NULL,
    crashes integer[] NOT NULL,
    losses integer[] NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 500);

-- A process that runs jobs. Dead and gone ones stay for a while, to be named in the history.
CREATE TABLE {schema}.worker (
    n integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    state text NOT NULL CHECK (state IN ('live', 'dead', 'gone')),
    host text NOT NULL,
    boot text NOT NULL,
    journal text,
    beat double precision NOT NULL,
    lease double precision NOT NULL,
    started_at double precision NOT NULL,
    swept bigint NOT NULL DEFAULT 0, -- sweeps up to this number are done, or must not be done any more
    status json NOT NULL
) WITH (fillfactor = 50);

-- Every ended grant but a plain success.
CREATE TABLE {schema}.attempt (
    id uuid NOT NULL,
    fence integer NOT NULL,
    attempt integer NOT NULL,
    outcome text NOT NULL,
    reason json, -- text may hold what a text of PostgreSQL cannot, as JSON it does
    error json,
    worker integer,
    started_at double precision,
    ended_at double precision NOT NULL,
    PRIMARY KEY (id, fence)
);

-- What a running job says of itself, and leaves to its next attempt.
CREATE TABLE {schema}.note (
    id uuid PRIMARY KEY,
    progress double precision,
    text json,
    checkpoint json
);

CREATE TABLE {schema}.log (
    id uuid NOT NULL,
    n integer NOT NULL,
    at double precision NOT NULL,
    level text NOT NULL,
    text json NOT NULL,
    PRIMARY KEY (id, n)
);

-- Running jobs that somebody asked to cancel.
CREATE TABLE {schema}.cancel (
    id uuid PRIMARY KEY,
    at double precision NOT NULL
);

-- Which job keeps which blob.
CREATE TABLE {schema}.blob (
    blob text NOT NULL,
    id uuid NOT NULL,
    PRIMARY KEY (blob, id)
);
CREATE INDEX blob_job ON {schema}.blob (id);
