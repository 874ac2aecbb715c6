-- +goose Up

ALTER TABLE replicas ADD COLUMN failover TEXT NOT NULL DEFAULT ''; -- the state; empty: standby
ALTER TABLE replicas ADD COLUMN failover_note TEXT NOT NULL DEFAULT ''; -- what the way back needs, JSON; empty: standby
