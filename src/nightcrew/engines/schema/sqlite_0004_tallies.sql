-- What has ended, by spans of time: of minutes by worker, of longer ones for all. Nobody counts the history.
CREATE TABLE tally (
    step INTEGER NOT NULL, -- seconds
    at INTEGER NOT NULL, -- its beginning
    lane INTEGER NOT NULL,
    worker INTEGER NOT NULL, -- 0 for all
    succeeded INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    retried INTEGER NOT NULL,
    other INTEGER NOT NULL,
    waits TEXT NOT NULL, -- histograms, as JSON
    runs TEXT NOT NULL,
    PRIMARY KEY (step, at, lane, worker)
) WITHOUT ROWID;
