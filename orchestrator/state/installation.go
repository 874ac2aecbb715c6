package state

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/understudy-dr/understudy/manifest"
)

// Installation is who this orchestrator is. It is drawn at the first start and never changes.
type Installation struct {
	UUID      string       // stands in the markers of every object of ours
	DigestKey manifest.Key // of the installation's domain
	Created   time.Time
	seed      Secret
}

// Identity is the Ed25519 key that the orchestrator shows to delegates.
func (i Installation) Identity() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(i.seed))
}

// Installation returns who this orchestrator is.
func (s *Store) Installation() Installation { return s.installation }

// loadInstallation reads the one row, or draws it at the first start.
func (s *Store) loadInstallation(ctx context.Context) error {
	err := s.readInstallation(ctx)
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	seed := make([]byte, ed25519.SeedSize)
	if _, err := rand.Read(seed); err != nil {
		return err
	}
	key, err := manifest.NewKey()
	if err != nil {
		return err
	}
	sealedSeed, err := s.secrets.seal(string(seed))
	if err != nil {
		return err
	}
	sealedKey, err := s.secrets.seal(string(key.Bytes()))
	if err != nil {
		return err
	}
	_, err = s.db.ExecContext(ctx,
		`INSERT INTO installation (one, uuid, recipient, secret_identity, secret_digest, created) VALUES (1, ?, ?, ?, ?, ?)`,
		uuid.NewString(), s.secrets.recipient(), sealedSeed, sealedKey, timeText(time.Now()))
	if err != nil {
		return fmt.Errorf("drawing the installation's identity: %w", err)
	}
	return s.readInstallation(ctx)
}

// readInstallation passes sql.ErrNoRows on when nothing has been drawn yet.
func (s *Store) readInstallation(ctx context.Context) error {
	var id, recipient, sealedSeed, sealedKey, created string
	row := s.db.QueryRowContext(ctx, `SELECT uuid, recipient, secret_identity, secret_digest, created FROM installation`)
	if err := row.Scan(&id, &recipient, &sealedSeed, &sealedKey, &created); err != nil {
		return fmt.Errorf("reading the installation's identity: %w", err)
	}
	if recipient != s.secrets.recipient() {
		return fmt.Errorf("%w: %s belongs to %s, wanted is the one of %s: name it in %s",
			ErrWrongKey, s.secrets.path, s.secrets.recipient(), recipient, keyFileVariable)
	}
	seed, err := s.secrets.open(sealedSeed)
	if err != nil {
		return fmt.Errorf("reading the installation's identity: %w", err)
	}
	if len(seed) != ed25519.SeedSize {
		return fmt.Errorf("reading the installation's identity: a seed of %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	secret, err := s.secrets.open(sealedKey)
	if err != nil {
		return fmt.Errorf("reading the digest key: %w", err)
	}
	key, err := manifest.ParseKey([]byte(secret))
	if err != nil {
		return fmt.Errorf("reading the digest key: %w", err)
	}
	at, err := parseTime(created)
	if err != nil {
		return fmt.Errorf("reading the installation's identity: %w", err)
	}
	s.installation = Installation{UUID: id, DigestKey: key, Created: at, seed: seed}
	return nil
}
