-- Dead letters, once more: which are the same failure. Only jobs that fail pay for it.
CREATE TABLE failure (
    seq INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    failed_at REAL NOT NULL
);
CREATE INDEX failure_group ON failure (fingerprint, seq, failed_at);
