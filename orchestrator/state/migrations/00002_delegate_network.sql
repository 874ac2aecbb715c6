-- +goose Up

ALTER TABLE pools ADD COLUMN delegate_gateway TEXT NOT NULL DEFAULT ''; -- an address; empty: none
ALTER TABLE pools ADD COLUMN delegate_mtu INTEGER NOT NULL DEFAULT 0; -- bytes; 0: the network's own
