package state

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
)

const (
	keyFileVariable    = "UNDERSTUDY_KEY_FILE"
	credentialsVariant = "CREDENTIALS_DIRECTORY" // set by systemd for a unit with LoadCredential=
	credentialName     = "understudy-key"
	maxKeyFile         = 64 << 10
)

// Secrets encrypts what the database must not show, with an age X25519 identity. It is safe for concurrent use.
type Secrets struct {
	identity *age.X25519Identity
	path     string
}

// LoadOrCreateSecrets reads the identity of the state directory stateDir from the first of
//
//   - the file that UNDERSTUDY_KEY_FILE names,
//   - the systemd credential understudy-key in CREDENTIALS_DIRECTORY, when there is one,
//   - defaultPath.
//
// At the first start, that is while stateDir holds no database, a missing file is made (mode 0600, in a directory of mode
// 0700); a credential never is. Later a missing file is an error: a new identity could open nothing. All errors about the
// file are ErrKeyFile: missing, readable by others, not an age X25519 identity, or inside stateDir, where it would travel
// with every copy of what it protects. getenv is os.Getenv outside of tests.
func LoadOrCreateSecrets(stateDir, defaultPath string, getenv func(string) string) (*Secrets, error) {
	if dir := getenv(credentialsVariant); dir != "" && getenv(keyFileVariable) == "" {
		path := filepath.Join(dir, credentialName)
		if _, err := os.Stat(path); err == nil {
			return loadSecrets(stateDir, path, false)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: systemd credential: %w", ErrKeyFile, err)
		}
	}
	path := getenv(keyFileVariable)
	if path == "" {
		path = defaultPath
	}
	secrets, err := loadSecrets(stateDir, path, true)
	if !errors.Is(err, fs.ErrNotExist) {
		return secrets, err
	}
	if _, err := os.Stat(filepath.Join(stateDir, databaseName)); err == nil {
		return nil, fmt.Errorf("%w: %s is missing, and %s holds secrets made with it: bring the file back from a backup or name it in %s",
			ErrKeyFile, path, stateDir, keyFileVariable)
	}
	if err := createKeyFile(path); err != nil {
		return nil, fmt.Errorf("%w: making %s: %w", ErrKeyFile, path, err)
	}
	return loadSecrets(stateDir, path, true)
}

// loadSecrets reads one file. private demands that only its owner can read it; systemd looks after its credentials itself.
func loadSecrets(stateDir, path string, private bool) (*Secrets, error) {
	if err := checkOutside(stateDir, path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	if private && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s can be read by others (mode %04o): chmod 600 it", ErrKeyFile, path, info.Mode().Perm())
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, fmt.Errorf("%w: %s is no key file: want a regular file of at most %d bytes", ErrKeyFile, path, maxKeyFile)
	}
	identities, err := age.ParseIdentities(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: want one line AGE-SECRET-KEY-1…: %w", ErrKeyFile, path, err)
	}
	identity, ok := identities[0].(*age.X25519Identity)
	if len(identities) != 1 || !ok {
		return nil, fmt.Errorf("%w: %s: want exactly one X25519 identity", ErrKeyFile, path)
	}
	return &Secrets{identity: identity, path: path}, nil
}

// createKeyFile makes an identity and gives the finished file its name in one step, so that of two processes at their
// first start one makes the key and the other reads it whole.
func createKeyFile(path string) error {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temporary := filepath.Join(dir, ".understudy-key-"+rand.Text())
	defer func() { _ = os.Remove(temporary) }()
	content := fmt.Sprintf("# understudy: opens the secrets of the state directory; keep a copy in a safe place\n# public key: %s\n%s\n",
		identity.Recipient(), identity)
	if err := writeDurable(temporary, []byte(content)); err != nil {
		return err
	}
	if err := os.Link(temporary, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(dir)
}

// checkOutside refuses a key file within the state directory, symbolic links followed.
func checkOutside(stateDir, path string) error {
	dir, err := resolve(stateDir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	file, err := resolve(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	relative, err := filepath.Rel(dir, file)
	if err == nil && relative != ".." && !strings.HasPrefix(relative, ".."+string(filepath.Separator)) {
		return fmt.Errorf("%w: %s lies inside the state directory %s: move it elsewhere and name it in %s",
			ErrKeyFile, path, stateDir, keyFileVariable)
	}
	return nil
}

// resolve makes path absolute and follows the symbolic links of the part of it that exists.
func resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	resolved, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(path) != path {
		parent, err := resolve(filepath.Dir(path))
		return filepath.Join(parent, filepath.Base(path)), err
	}
	return resolved, err
}

func (s *Secrets) recipient() string { return s.identity.Recipient().String() }

// seal encrypts value for a column of the database.
func (s *Secrets) seal(value string) (string, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, s.identity.Recipient())
	if err != nil {
		return "", fmt.Errorf("encrypting a secret: %w", err)
	}
	if _, err := io.WriteString(w, value); err != nil {
		return "", fmt.Errorf("encrypting a secret: %w", err)
	}
	if err := w.Close(); err != nil {
		return "", fmt.Errorf("encrypting a secret: %w", err)
	}
	return base64.StdEncoding.EncodeToString(out.Bytes()), nil
}

// open is the inverse of seal. A value that another identity sealed is an ErrWrongKey.
func (s *Secrets) open(column string) (Secret, error) {
	sealed, err := base64.StdEncoding.DecodeString(column)
	if err != nil {
		return "", fmt.Errorf("decrypting a secret: %w", err)
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), s.identity)
	var mismatch *age.NoIdentityMatchError
	if errors.As(err, &mismatch) {
		return "", fmt.Errorf("%w: %s", ErrWrongKey, s.path)
	} else if err != nil {
		return "", fmt.Errorf("decrypting a secret: %w", err)
	}
	value, err := io.ReadAll(r)
	if err != nil {
		return "", fmt.Errorf("decrypting a secret: %w", err)
	}
	return Secret(value), nil
}
