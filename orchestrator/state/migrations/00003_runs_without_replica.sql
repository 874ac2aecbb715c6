-- +goose NO TRANSACTION
-- +goose Up

-- A run may be about no replica: a deployment, a delegate's test. SQLite changes a column's constraint only by making the table
-- anew; foreign keys are off meanwhile, because dropping the old table would take the objects of its runs along. That cannot be
-- switched within a transaction. Killed after COMMIT the migration comes again, which does no harm.

PRAGMA foreign_keys = OFF;

BEGIN IMMEDIATE;

CREATE TABLE new_runs (
    id       TEXT PRIMARY KEY,
    replica  TEXT REFERENCES replicas (id) ON DELETE CASCADE, -- null: about no replica
    kind     TEXT NOT NULL,
    state    TEXT NOT NULL,
    owner    TEXT NOT NULL,
    started  TEXT NOT NULL,
    finished TEXT NOT NULL, -- empty while it lasts
    error    TEXT NOT NULL,
    report   TEXT NOT NULL  -- JSON
) STRICT;

INSERT INTO new_runs (id, replica, kind, state, owner, started, finished, error, report)
    SELECT id, replica, kind, state, owner, started, finished, error, report FROM runs;

DROP TABLE runs;

ALTER TABLE new_runs RENAME TO runs;

CREATE UNIQUE INDEX one_unfinished_run ON runs (replica) WHERE finished = '';

CREATE INDEX runs_by_start ON runs (started);

COMMIT;

PRAGMA foreign_keys = ON;
