package state

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"
)

const (
	databaseName  = "understudy.db"
	lockName      = "understudy.lock"
	manifestsName = "manifests"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is an open state directory. It is safe for concurrent use, also by several processes.
type Store struct {
	dir          string
	db           *sql.DB
	secrets      *Secrets
	owner        Owner
	installation Installation

	clock                        func() time.Time // nil: time.Now
	beatEvery, lookEvery, giveUp time.Duration
}

// SetClock replaces time.Now for signs of life and leases, before the Store is used by others.
func (s *Store) SetClock(now func() time.Time) { s.clock = now }

func (s *Store) now() time.Time {
	if s.clock != nil {
		return s.clock()
	}
	return time.Now()
}

// Open opens the state directory dir, which is made (mode 0700) when it is missing, and brings its schema up to date. At
// the first start the installation's id and keys are drawn.
//
// Errors: ErrNewerSchema, ErrWrongKey, ErrKeyFile when the key lies inside dir. Close the Store after use.
func Open(ctx context.Context, dir string, secrets *Secrets) (*Store, error) {
	if err := checkOutside(dir, secrets.path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, manifestsName), 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	owner, err := CurrentOwner()
	if err != nil {
		return nil, err
	}
	db, err := openDatabase(filepath.Join(dir, databaseName))
	if err != nil {
		return nil, fmt.Errorf("opening the state directory %s: %w", dir, err)
	}
	s := &Store{dir: dir, db: db, secrets: secrets, owner: owner, beatEvery: beatEvery, lookEvery: lookEvery, giveUp: giveUp}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the state directory %s: %w", dir, err), db.Close())
	}
	return s, nil
}

// Close closes the database. Open journals and views are closed by their holders before.
func (s *Store) Close() error { return s.db.Close() }

// Owner names this process as the owner of the runs that it begins.
func (s *Store) Owner() Owner { return s.owner }

func openDatabase(path string) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // SQLite would make it readable by all
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	options := url.Values{
		"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
		// A transaction that reads first and writes later would fail at once, without waiting, when another one wrote between.
		"_txlock": {"immediate"},
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: options.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(4)
	return db, nil
}

// prepare migrates and loads the installation, under a lock between processes: two first starts would both migrate.
func (s *Store) prepare(ctx context.Context) error {
	unlock, err := lockFile(filepath.Join(s.dir, lockName))
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.migrate(ctx); err != nil {
		return err
	}
	return s.loadInstallation(ctx)
}

func (s *Store) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, s.db, files)
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	current, target, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("reading the schema's version: %w", err)
	}
	if current > target {
		return fmt.Errorf("%w: its schema is version %d, this program knows %d: use the newer program, or a backup of the directory made before",
			ErrNewerSchema, current, target)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("bringing the schema from version %d to %d: %w", current, target, err)
	}
	return nil
}

// lockFile takes an exclusive lock, which the kernel drops with the process.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing unlocks
}

// write runs f in a transaction that is durable when write returns nil.
func (s *Store) write(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("state database: %w", err)
	}
	if err := f(tx); err != nil {
		return errors.Join(err, rollback(tx))
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("state database: %w", err)
	}
	return nil
}

// read runs f in a transaction that sees one moment and keeps no writer waiting.
func (s *Store) read(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("state database: %w", err)
	}
	return errors.Join(f(tx), rollback(tx))
}

// rollback takes it as done when the end of the context came first.
func rollback(tx *sql.Tx) error {
	if err := tx.Rollback(); !errors.Is(err, sql.ErrTxDone) {
		return err
	}
	return nil
}

// changedOne is an ErrNotFound unless a statement changed exactly one row.
func changedOne(result sql.Result, what string) error {
	n, err := result.RowsAffected()
	if err != nil {
		return fmt.Errorf("state database: %w", err)
	}
	if n != 1 {
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return nil
}

// timeLayout has a fixed width, so that stored times sort.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// timeText is the column of a time; the zero time is empty.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(timeLayout)
}

func parseTime(column string) (time.Time, error) {
	if column == "" {
		return time.Time{}, nil
	}
	return time.Parse(timeLayout, column)
}
