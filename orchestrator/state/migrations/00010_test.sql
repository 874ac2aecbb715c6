-- +goose Up

-- A test of a restore point goes on beside the run that is at work on the replica: it writes nothing of it.

DROP INDEX one_unfinished_run;

CREATE UNIQUE INDEX one_unfinished_run ON runs (replica) WHERE finished = '' AND kind <> 'test-replica';
