-- Small values beside the jobs. The number is the version: each save gives a new one, and AUTOINCREMENT none again.
CREATE TABLE document (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL CHECK (json_valid(value)),
    changed_at REAL NOT NULL
);
CREATE UNIQUE INDEX document_key ON document (kind, key);
