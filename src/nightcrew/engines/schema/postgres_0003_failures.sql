-- Dead letters, once more: which are the same failure. Only jobs that fail pay for it.
CREATE TABLE {schema}.failure (
    id uuid PRIMARY KEY,
    fingerprint text COLLATE "C" NOT NULL,
    failed_at double precision NOT NULL
);
CREATE INDEX failure_group ON {schema}.failure (fingerprint, id) INCLUDE (failed_at);
