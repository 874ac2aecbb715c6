-- +goose Up

-- What each disk's changes are tracked since: a snapshot of the source disk without its data.
CREATE TABLE cbt_bases (
    replica    TEXT NOT NULL,
    disk       TEXT NOT NULL,
    source_vdi TEXT NOT NULL, -- the disk that is tracked
    base       TEXT NOT NULL, -- uuid of the snapshot; empty: none, since the disk's bitmaps are distrusted
    generation TEXT NOT NULL, -- that the replica was committed with from the snapshot
    slice      INTEGER NOT NULL, -- extent at which the next rolling slice begins
    distrusted TEXT NOT NULL, -- why; empty: they are trusted
    PRIMARY KEY (replica, disk),
    FOREIGN KEY (replica, disk) REFERENCES replica_disks (replica, disk) ON DELETE CASCADE
) STRICT;

-- Source disks whose tracking was switched on by us, and is to be switched off when nobody needs it any more.
CREATE TABLE cbt_tracked (
    pool    TEXT NOT NULL REFERENCES pools (uuid) ON DELETE CASCADE,
    vdi     TEXT NOT NULL,
    replica TEXT REFERENCES replicas (id) ON DELETE SET NULL, -- for which it was; null: it is forgotten
    PRIMARY KEY (pool, vdi)
) STRICT;
