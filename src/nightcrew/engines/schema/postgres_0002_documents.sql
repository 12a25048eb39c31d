-- Small values beside the jobs.
CREATE SEQUENCE {schema}.document_version; -- each save draws a new one

CREATE TABLE {schema}.document (
    kind text NOT NULL,
    key text COLLATE "C" NOT NULL, -- the same order on every store
    version bigint NOT NULL,
    saved_by uuid NOT NULL, -- the call, which may be repeated
    value json NOT NULL,
    changed_at double precision NOT NULL,
    PRIMARY KEY (kind, key)
) WITH (fillfactor = 50);
