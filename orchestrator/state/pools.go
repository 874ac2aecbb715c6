package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Pool is a pool as an administrator added it.
type Pool struct {
	UUID              string // the pool's own
	Name              string // unique here; pools themselves may share a name
	Addresses         []string
	Username          string
	Password          Secret
	Fingerprints      []string // of the certificates that are accepted
	DelegateAddresses string   // the range that delegates get addresses from, as it was typed
	DelegateGateway   string   // an address in the network of that range; empty: delegates know their own network alone
	DelegateMTU       int      // of the delegates' interface, in bytes; 0: the network's own
	DelegateNetwork   string   // uuid of the network that delegates are on; empty: that which their image was deployed to
	Added             time.Time
}

// validate names what is missing.
func (p Pool) validate() error {
	switch {
	case p.Name == "":
		return errors.New("a pool needs a name")
	case p.UUID == "":
		return fmt.Errorf("pool %s: its uuid is not known: connect to it first", p.Name)
	case len(p.Addresses) == 0:
		return fmt.Errorf("pool %s: it needs an address", p.Name)
	case len(p.Fingerprints) == 0:
		return fmt.Errorf("pool %s: it needs the fingerprint of its certificate", p.Name)
	}
	return nil
}

// AddPool keeps a pool; Added is set here. A name or a pool that is known already is an ErrExists.
func (s *Store) AddPool(ctx context.Context, p Pool) error {
	if err := p.validate(); err != nil {
		return err
	}
	sealed, err := s.seal(p)
	if err != nil {
		return fmt.Errorf("adding pool %s: %w", p.Name, err)
	}
	_, err = s.db.ExecContext(ctx,
		`INSERT INTO pools (uuid, name, addresses, username, secret_password, fingerprints, delegate_addresses, delegate_gateway, delegate_mtu,
		 delegate_network, added) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		p.UUID, p.Name, sealed.addresses, p.Username, sealed.password, sealed.fingerprints, p.DelegateAddresses, p.DelegateGateway, p.DelegateMTU,
		p.DelegateNetwork, timeText(time.Now()))
	if isUnique(err) {
		return fmt.Errorf("adding pool %s (%s): the name or the pool is known: see the list of pools: %w", p.Name, p.UUID, ErrExists)
	} else if err != nil {
		return fmt.Errorf("adding pool %s: %w", p.Name, err)
	}
	return nil
}

// UpdatePool replaces what is known of how to reach a pool, all but its name, uuid and Added, by which nothing else is touched.
// No pool of that name and uuid is an ErrNotFound.
func (s *Store) UpdatePool(ctx context.Context, p Pool) error {
	if err := p.validate(); err != nil {
		return err
	}
	sealed, err := s.seal(p)
	if err != nil {
		return fmt.Errorf("updating pool %s: %w", p.Name, err)
	}
	result, err := s.db.ExecContext(ctx,
		`UPDATE pools SET addresses = ?, username = ?, secret_password = ?, fingerprints = ?,
		 delegate_addresses = ?, delegate_gateway = ?, delegate_mtu = ?, delegate_network = ? WHERE uuid = ? AND name = ?`,
		sealed.addresses, p.Username, sealed.password, sealed.fingerprints,
		p.DelegateAddresses, p.DelegateGateway, p.DelegateMTU, p.DelegateNetwork, p.UUID, p.Name)
	if err != nil {
		return fmt.Errorf("updating pool %s: %w", p.Name, err)
	}
	return changedOne(result, fmt.Sprintf("pool %s (%s)", p.Name, p.UUID))
}

// sealedPool holds the columns of a pool that are not stored as they are.
type sealedPool struct{ addresses, password, fingerprints string }

func (s *Store) seal(p Pool) (sealed sealedPool, err error) {
	if sealed.password, err = s.secrets.seal(p.Password.Reveal()); err != nil {
		return sealed, err
	}
	addresses, err := json.Marshal(p.Addresses)
	if err != nil {
		return sealed, err
	}
	fingerprints, err := json.Marshal(p.Fingerprints)
	sealed.addresses, sealed.fingerprints = string(addresses), string(fingerprints)
	return sealed, err
}

const selectPools = `SELECT uuid, name, addresses, username, secret_password, fingerprints, delegate_addresses, delegate_gateway, delegate_mtu,
	delegate_network, added FROM pools `

// Pools lists all pools by name.
func (s *Store) Pools(ctx context.Context) ([]Pool, error) {
	pools, err := queryAll(ctx, s.db, s.scanPool, selectPools+`ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("listing the pools: %w", err)
	}
	return pools, nil
}

// Pool finds a pool by its name or its uuid; ErrNotFound.
func (s *Store) Pool(ctx context.Context, nameOrUUID string) (Pool, error) {
	pools, err := queryAll(ctx, s.db, s.scanPool, selectPools+`WHERE name = ? OR uuid = ? ORDER BY name = ? DESC LIMIT 1`,
		nameOrUUID, nameOrUUID, nameOrUUID)
	if err != nil {
		return Pool{}, fmt.Errorf("reading pool %s: %w", nameOrUUID, err)
	}
	if len(pools) == 0 {
		return Pool{}, fmt.Errorf("pool %s: %w: add it first", nameOrUUID, ErrNotFound)
	}
	return pools[0], nil
}

// RemovePool forgets a pool by its name. While replicas come from it or lie in it, or a job is about it, that is an ErrInUse.
func (s *Store) RemovePool(ctx context.Context, name string) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		var uuid string
		err := tx.QueryRowContext(ctx, `SELECT uuid FROM pools WHERE name = ?`, name).Scan(&uuid)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		} else if err != nil {
			return err
		}
		jobs, err := queryAll(ctx, tx, scanJob, selectJobs+`ORDER BY name`)
		if err != nil {
			return err
		}
		for _, j := range jobs {
			if j.Definition.Source == uuid || j.Definition.Target == uuid {
				return fmt.Errorf("job %q is about it: %w: 'understudy job edit' or 'understudy job delete' comes first", j.Definition.Name, ErrInUse)
			}
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM pools WHERE uuid = ?`, uuid)
		if isForeignKey(err) {
			return fmt.Errorf("replicas come from it or lie in it: %w", ErrInUse)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("removing pool %s: %w", name, err)
	}
	return nil
}

func (s *Store) scanPool(scan scanFunc) (p Pool, err error) {
	var addresses, password, fingerprints, added string
	err = scan(&p.UUID, &p.Name, &addresses, &p.Username, &password, &fingerprints, &p.DelegateAddresses, &p.DelegateGateway, &p.DelegateMTU, &p.DelegateNetwork,
		&added)
	if err != nil {
		return Pool{}, err
	}
	if p.Password, err = s.secrets.open(password); err != nil {
		return Pool{}, err
	}
	if p.Added, err = parseTime(added); err != nil {
		return Pool{}, err
	}
	return p, errors.Join(json.Unmarshal([]byte(addresses), &p.Addresses), json.Unmarshal([]byte(fingerprints), &p.Fingerprints))
}
