-- +goose Up

CREATE TABLE jobs (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE, -- that of the definition
    enabled    INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    definition TEXT NOT NULL, -- JSON
    created    TEXT NOT NULL,
    updated    TEXT NOT NULL
) STRICT;

CREATE TABLE job_runs (
    id        TEXT PRIMARY KEY,
    job       TEXT NOT NULL, -- what was run is remembered when the job is gone
    state     TEXT NOT NULL,
    owner     TEXT NOT NULL,
    heartbeat TEXT NOT NULL, -- last sign of life of the owner
    cancel    INTEGER NOT NULL DEFAULT 0 CHECK (cancel IN (0, 1)), -- wanted by the administrator
    started   TEXT NOT NULL,
    finished  TEXT NOT NULL, -- empty while it lasts
    report    TEXT NOT NULL  -- JSON
) STRICT;

CREATE UNIQUE INDEX one_unfinished_job_run ON job_runs (job) WHERE finished = '';
CREATE INDEX job_runs_by_start ON job_runs (started);

ALTER TABLE runs ADD COLUMN job_run TEXT NOT NULL DEFAULT ''; -- empty: a part of none
ALTER TABLE runs ADD COLUMN heartbeat TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN cancel INTEGER NOT NULL DEFAULT 0 CHECK (cancel IN (0, 1));

UPDATE runs SET heartbeat = started; -- the last sign of life that is known

CREATE INDEX runs_by_job_run ON runs (job_run) WHERE job_run <> '';
