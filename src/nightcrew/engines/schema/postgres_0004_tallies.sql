-- What has ended, by spans of time: of minutes by worker, of longer ones for all. Nobody counts the history.
CREATE TABLE {schema}.tally (
    step integer NOT NULL, -- seconds
    at bigint NOT NULL, -- its beginning
    lane integer NOT NULL,
    worker integer NOT NULL, -- 0 for all
    succeeded bigint NOT NULL,
    failed bigint NOT NULL,
    retried bigint NOT NULL,
    other bigint NOT NULL,
    waits bigint[] NOT NULL, -- histograms
    runs bigint[] NOT NULL,
    PRIMARY KEY (step, at, lane, worker)
) WITH (fillfactor = 50);
