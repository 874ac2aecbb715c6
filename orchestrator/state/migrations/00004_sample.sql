-- +goose Up

ALTER TABLE replicas ADD COLUMN samples INTEGER NOT NULL DEFAULT 0; -- how many samples were read back and found right
