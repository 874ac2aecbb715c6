-- +goose Up

-- Times are UTC text of fixed width, so that they sort. Columns named secret_* are encrypted with age, in base64.

CREATE TABLE installation (
    one             INTEGER PRIMARY KEY CHECK (one = 1),
    uuid            TEXT NOT NULL,
    recipient       TEXT NOT NULL, -- public half of the identity that the secrets are encrypted for
    secret_identity TEXT NOT NULL, -- Ed25519 seed of the orchestrator
    secret_digest   TEXT NOT NULL, -- digest key of the installation's domain
    created         TEXT NOT NULL
) STRICT;

CREATE TABLE pools (
    uuid               TEXT PRIMARY KEY,
    name               TEXT NOT NULL UNIQUE,
    addresses          TEXT NOT NULL, -- JSON array, tried in order
    username           TEXT NOT NULL,
    secret_password    TEXT NOT NULL,
    fingerprints       TEXT NOT NULL, -- JSON array
    delegate_addresses TEXT NOT NULL,
    added              TEXT NOT NULL
) STRICT;

CREATE TABLE replicas (
    id          TEXT PRIMARY KEY,
    source_pool TEXT NOT NULL REFERENCES pools (uuid),
    source_vm   TEXT NOT NULL,
    target_pool TEXT NOT NULL REFERENCES pools (uuid),
    target_sr   TEXT NOT NULL,
    target_vm   TEXT NOT NULL, -- empty until it has been created
    created     TEXT NOT NULL,
    last_commit TEXT NOT NULL, -- by the target pool's clock; empty before the first commit
    UNIQUE (source_pool, source_vm, target_pool, target_sr)
) STRICT;

CREATE TABLE replica_disks (
    replica      TEXT NOT NULL REFERENCES replicas (id) ON DELETE CASCADE,
    disk         TEXT NOT NULL, -- userdevice
    source_vdi   TEXT NOT NULL,
    target_vdi   TEXT NOT NULL,
    logical_size INTEGER NOT NULL CHECK (logical_size > 0),
    state        TEXT NOT NULL, -- clean:<generation> or dirty:<generation>; empty before the first run
    PRIMARY KEY (replica, disk)
) STRICT;

-- The manifest of a disk is its base and, in order of sequence, the deltas above it.
CREATE TABLE manifests (
    replica    TEXT NOT NULL,
    disk       TEXT NOT NULL,
    sequence   INTEGER NOT NULL,
    file       TEXT NOT NULL, -- name in STATE/manifests/<replica>
    delta      INTEGER NOT NULL CHECK (delta IN (0, 1)),
    generation TEXT NOT NULL,
    root       TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    committed  TEXT NOT NULL,
    PRIMARY KEY (replica, disk, sequence),
    FOREIGN KEY (replica, disk) REFERENCES replica_disks (replica, disk) ON DELETE CASCADE
) STRICT;

-- One segment for each generation that wrote into a disk's journal since the last commit.
CREATE TABLE journal_segments (
    replica    TEXT NOT NULL,
    disk       TEXT NOT NULL,
    sequence   INTEGER NOT NULL,
    generation TEXT NOT NULL,
    start      INTEGER NOT NULL, -- byte offset in the file
    length     INTEGER NOT NULL, -- bytes; what follows in the file was never acknowledged
    watermark  INTEGER NOT NULL, -- every extent below it is settled and durable
    PRIMARY KEY (replica, disk, sequence),
    UNIQUE (replica, disk, generation),
    FOREIGN KEY (replica, disk) REFERENCES replica_disks (replica, disk) ON DELETE CASCADE
) STRICT;

CREATE TABLE runs (
    id       TEXT PRIMARY KEY,
    replica  TEXT NOT NULL REFERENCES replicas (id) ON DELETE CASCADE,
    kind     TEXT NOT NULL,
    state    TEXT NOT NULL,
    owner    TEXT NOT NULL,
    started  TEXT NOT NULL,
    finished TEXT NOT NULL, -- empty while it lasts
    error    TEXT NOT NULL,
    report   TEXT NOT NULL  -- JSON
) STRICT;

CREATE UNIQUE INDEX one_unfinished_run ON runs (replica) WHERE finished = '';
CREATE INDEX runs_by_start ON runs (started);

CREATE TABLE objects (
    run      TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    pool     TEXT NOT NULL,
    class    TEXT NOT NULL,
    kind     TEXT NOT NULL,
    name     TEXT NOT NULL,
    origin   TEXT NOT NULL,
    uuid     TEXT NOT NULL, -- empty while only the intent is known
    status   TEXT NOT NULL,
    recorded TEXT NOT NULL,
    PRIMARY KEY (run, sequence)
) STRICT;

CREATE INDEX objects_pending ON objects (run) WHERE status IN ('intended', 'created');

CREATE TABLE address_leases (
    pool    TEXT NOT NULL REFERENCES pools (uuid) ON DELETE CASCADE,
    address TEXT NOT NULL,
    run     TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    leased  TEXT NOT NULL,
    PRIMARY KEY (pool, address)
) STRICT;
