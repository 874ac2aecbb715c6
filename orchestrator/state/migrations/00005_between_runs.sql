-- +goose Up

ALTER TABLE journal_segments ADD COLUMN reach INTEGER; -- nothing was written at or above this extent; null: not known
ALTER TABLE journal_segments ADD COLUMN kept INTEGER NOT NULL DEFAULT 0; -- what was not written holds what was known before

-- Of runs that ended before it is not known whether what they noted may be relied upon.
UPDATE journal_segments SET watermark = 0;
