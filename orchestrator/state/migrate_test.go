package state_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// downgrade makes the database as the first version's program left it, with what is in it.
const downgrade = `
PRAGMA foreign_keys = OFF;
BEGIN;
ALTER TABLE pools DROP COLUMN delegate_gateway;
ALTER TABLE pools DROP COLUMN delegate_mtu;
ALTER TABLE pools DROP COLUMN delegate_network;
ALTER TABLE replicas DROP COLUMN samples;
ALTER TABLE replicas DROP COLUMN trust;
ALTER TABLE replicas DROP COLUMN accepted_start;
ALTER TABLE replicas DROP COLUMN failover;
ALTER TABLE replicas DROP COLUMN failover_note;
ALTER TABLE replica_disks DROP COLUMN utilisation;
ALTER TABLE replica_disks DROP COLUMN foreign_writes;
ALTER TABLE journal_segments DROP COLUMN reach;
ALTER TABLE journal_segments DROP COLUMN kept;
DROP TABLE cbt_bases;
DROP TABLE cbt_tracked;
DROP TABLE job_runs;
DROP TABLE jobs;
CREATE TABLE old_runs (
    id TEXT PRIMARY KEY, replica TEXT NOT NULL REFERENCES replicas (id) ON DELETE CASCADE, kind TEXT NOT NULL, state TEXT NOT NULL,
    owner TEXT NOT NULL, started TEXT NOT NULL, finished TEXT NOT NULL, error TEXT NOT NULL, report TEXT NOT NULL
) STRICT;
INSERT INTO old_runs SELECT id, replica, kind, state, owner, started, finished, error, report FROM runs;
DROP TABLE runs;
ALTER TABLE old_runs RENAME TO runs;
CREATE UNIQUE INDEX one_unfinished_run ON runs (replica) WHERE finished = '';
CREATE INDEX runs_by_start ON runs (started);
DELETE FROM goose_db_version WHERE version_id > 1;
COMMIT;`

// TestMigrationKeepsWhatIsThere has a state of the first version, with a run under way that has made an object and holds an address.
func TestMigrationKeepsWhatIsThere(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	addPools(t, store)
	replica, run := addReplica(t, store, 1)
	if _, err := store.RecordIntent(t.Context(), state.Object{Run: run.Report.ID, Pool: "pool-a", Class: "VM", Kind: "delegate"}); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(dirs.state, "understudy.db"))
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	_, err = db.Exec(downgrade)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}

	for range 2 { // the second start finds nothing to do
		store = dirs.open(t)
		objects, err := store.Objects(t.Context(), run.Report.ID)
		if err != nil || len(objects) != 1 {
			t.Fatalf("objects %v, %v", objects, err)
		}
		kept, err := store.Run(t.Context(), run.Report.ID)
		if err != nil || kept.Replica != replica.ID {
			t.Errorf("run %+v, %v", kept, err)
		}
		if !kept.Heartbeat.Equal(run.Report.Started) || kept.CancelRequested {
			t.Errorf("run %+v: the last sign of life that is known is its start", kept)
		}
		pool, err := store.Pool(t.Context(), "a")
		if err != nil || pool.DelegateGateway != "" || pool.DelegateMTU != 0 || pool.DelegateAddresses != "192.0.2.0/24" {
			t.Errorf("pool %+v, %v", pool, err)
		}
		// Foreign keys and the limit of one run hold as before.
		about := report.Run{Direction: report.Push, Trust: report.TrustVerify}
		if _, err := store.BeginRun(t.Context(), replica.ID, state.RunReplicate, about); !errors.Is(err, state.ErrBusy) {
			t.Errorf("a second run: %v", err)
		}
		if _, err := store.BeginRun(t.Context(), "none", state.RunReplicate, about); !errors.Is(err, state.ErrNotFound) {
			t.Errorf("a run on an unknown replica: %v", err)
		}
	}
}

func TestRunsWithoutAReplica(t *testing.T) {
	store := newFolders(t).open(t)
	addPools(t, store)
	first, err := store.BeginRun(t.Context(), "", state.RunDeploy, report.Run{VM: report.VM{PoolUUID: "pool-a"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.BeginRun(t.Context(), "", state.RunDeploy, report.Run{VM: report.VM{PoolUUID: "pool-a"}}); !errors.Is(err, state.ErrBusy) {
		t.Errorf("two deployments to one pool: %v", err)
	}
	elsewhere, err := store.BeginRun(t.Context(), "", state.RunDeploy, report.Run{VM: report.VM{PoolUUID: "pool-b"}})
	if err != nil {
		t.Fatal(err)
	}
	endRun(t, store, elsewhere)
	second, err := store.BeginRun(t.Context(), "", state.RunTest, report.Run{VM: report.VM{Pool: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	pending, err := store.PendingRuns(t.Context())
	if err != nil || len(pending) != 2 || pending[0].Report.ID != first.Report.ID || pending[1].Kind != state.RunTest || pending[1].Replica != "" {
		t.Errorf("pending %+v, %v", pending, err)
	}
	endRun(t, store, first)
	endRun(t, store, second)
	for kind, replica := range map[state.RunKind]string{state.RunDeploy: "replica", state.RunReplicate: ""} {
		if _, err := store.BeginRun(t.Context(), replica, kind, report.Run{}); err == nil {
			t.Errorf("a run of kind %s on replica %q", kind, replica)
		}
	}
}

func TestDelegateNetworkIsKept(t *testing.T) {
	store := newFolders(t).open(t)
	addPools(t, store)
	pool, err := store.Pool(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	pool.DelegateGateway, pool.DelegateMTU, pool.DelegateNetwork = "192.0.2.1", 1400, "network-1"
	if err := store.UpdatePool(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if kept, err := store.Pool(t.Context(), "a"); err != nil || kept.DelegateGateway != "192.0.2.1" || kept.DelegateMTU != 1400 || kept.DelegateNetwork != "network-1" {
		t.Errorf("%+v, %v", kept, err)
	}
}
