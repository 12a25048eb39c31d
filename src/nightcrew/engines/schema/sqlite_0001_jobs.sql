-- One job passes: job + ready -> (claim) -> done. Nothing indexed is ever updated, and the tables
-- that every claim reads hold only what is waiting, however long the history is.

-- A (queue, task) pair. A stream is a lane at one priority: lane << 8 | (100 - priority).
CREATE TABLE lane (
    id INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    task TEXT NOT NULL,
    label TEXT NOT NULL, -- both names as JSON, for the claim's one big text
    UNIQUE (queue, task)
);

-- What was asked for. Never changed.
CREATE TABLE job (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    lane INTEGER NOT NULL,
    priority INTEGER NOT NULL CHECK (priority BETWEEN -100 AND 100),
    created_at REAL NOT NULL,
    args TEXT NOT NULL CHECK (json_valid(args)),
    max_attempts INTEGER NOT NULL CHECK (max_attempts > 0),
    rerun INTEGER NOT NULL CHECK (rerun IN (0, 1)),
    codec INTEGER NOT NULL,
    extras TEXT CHECK (extras IS NULL OR json_valid(extras))
);

-- May run now. The fence is the last one granted.
CREATE TABLE ready (
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    losses INTEGER NOT NULL,
    ready_at REAL NOT NULL,
    PRIMARY KEY (stream, seq)
) WITHOUT ROWID;

-- May run once it is due.
CREATE TABLE later (
    due_at REAL NOT NULL,
    seq INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    losses INTEGER NOT NULL,
    PRIMARY KEY (due_at, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX later_seq ON later (seq);

-- One row a claimed batch. Its members are the open grants: settling one takes it out.
CREATE TABLE claim (
    id INTEGER PRIMARY KEY,
    worker INTEGER NOT NULL, -- who holds it
    origin INTEGER NOT NULL, -- who ran it: differs from the holder once a sweeper has taken it over
    raised INTEGER NOT NULL, -- how often sweepers have raised its fences since
    claimed_at REAL NOT NULL,
    members BLOB NOT NULL
);

-- A process that runs jobs. Dead and gone ones stay for a while, to be named in the history.
CREATE TABLE worker (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('live', 'dead', 'gone')),
    boot TEXT NOT NULL,
    journal TEXT,
    beat REAL NOT NULL,
    lease REAL NOT NULL,
    started_at REAL NOT NULL,
    seen_at REAL NOT NULL,
    status TEXT NOT NULL
);

-- How it ended. state: 3 succeeded, 4 failed, 5 cancelled.
CREATE TABLE done (
    seq INTEGER PRIMARY KEY,
    state INTEGER NOT NULL CHECK (state IN (3, 4, 5)),
    fence INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    losses INTEGER NOT NULL,
    worker INTEGER,
    started_at REAL,
    duration REAL,
    finished_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    result TEXT CHECK (result IS NULL OR json_valid(result))
);
CREATE INDEX done_unsuccessful ON done (state, seq) WHERE state <> 3;

-- Every ended grant but a plain success.
CREATE TABLE attempt (
    seq INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT,
    error TEXT,
    worker INTEGER,
    started_at REAL,
    ended_at REAL NOT NULL,
    PRIMARY KEY (seq, fence)
) WITHOUT ROWID;

-- What a running job says of itself, and leaves to its next attempt.
CREATE TABLE note (
    seq INTEGER PRIMARY KEY,
    progress REAL,
    text TEXT,
    checkpoint TEXT
);

CREATE TABLE log (
    seq INTEGER NOT NULL,
    n INTEGER NOT NULL,
    at REAL NOT NULL,
    level TEXT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (seq, n)
) WITHOUT ROWID;

-- Running jobs that somebody asked to cancel.
CREATE TABLE cancel (
    seq INTEGER PRIMARY KEY,
    at REAL NOT NULL
);

-- Which job keeps which blob.
CREATE TABLE blob (
    id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (id, seq)
) WITHOUT ROWID;
CREATE INDEX blob_seq ON blob (seq);
