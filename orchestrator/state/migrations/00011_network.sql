-- +goose Up

ALTER TABLE pools ADD COLUMN delegate_network TEXT NOT NULL DEFAULT ''; -- uuid; empty: where the image was deployed to
