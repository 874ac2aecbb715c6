-- +goose Up

ALTER TABLE replicas ADD COLUMN trust TEXT NOT NULL DEFAULT ''; -- trust or distrust, of the administrator; empty: as each run says
ALTER TABLE replicas ADD COLUMN accepted_start TEXT NOT NULL DEFAULT ''; -- of the replica VM: what it did since may be overwritten
ALTER TABLE replica_disks ADD COLUMN foreign_writes TEXT NOT NULL DEFAULT ''; -- what a run found that somebody else wrote; empty: nothing
ALTER TABLE replica_disks ADD COLUMN utilisation INTEGER NOT NULL DEFAULT 0; -- bytes that the pool said it takes, after the last commit; 0: not noted
