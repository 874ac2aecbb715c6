package state

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"net/netip"
	"time"
)

// Lease takes the first of addresses that no run holds in a pool, for a run; an address comes with its network's prefix. Two processes never get the same one. The lease
// ends with a run that leaves nothing behind, or with ReleaseRun. ErrNoAddress when all are taken. Only the run's owner may.
func (s *Store) Lease(ctx context.Context, pool, run string, addresses iter.Seq[netip.Prefix]) (netip.Prefix, error) {
	var leased netip.Prefix
	what := fmt.Sprintf("leasing an address of pool %s for run %s", pool, run)
	err := s.writeRun(ctx, what, run, func(tx *sql.Tx) error {
		held, err := queryAll(ctx, tx, func(scan scanFunc) (address string, err error) {
			return address, scan(&address)
		}, `SELECT address FROM address_leases WHERE pool = ?`, pool)
		if err != nil {
			return err
		}
		taken := make(map[string]bool, len(held))
		for _, address := range held {
			taken[address] = true
		}
		for address := range addresses {
			if taken[address.Addr().String()] {
				continue
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO address_leases (pool, address, run, leased) VALUES (?, ?, ?, ?)`,
				pool, address.Addr().String(), run, timeText(time.Now()))
			if isForeignKey(err) {
				return fmt.Errorf("pool: %w", ErrNotFound)
			}
			leased = address
			return err
		}
		return fmt.Errorf("%w: %d are held: give the pool a larger range, or wait for a run to end", ErrNoAddress, len(held))
	})
	if err != nil {
		return netip.Prefix{}, err
	}
	return leased, nil
}

// AddressLease is an address that a run holds for a delegate.
type AddressLease struct {
	Address string
	Run     string
	Replica string // that the run is about; empty: none
}

// Leases lists the addresses of a pool that runs hold.
func (s *Store) Leases(ctx context.Context, pool string) ([]AddressLease, error) {
	leases, err := queryAll(ctx, s.db, func(scan scanFunc) (l AddressLease, err error) {
		err = scan(&l.Address, &l.Run, &l.Replica)
		return l, err
	}, `SELECT address, run, COALESCE(replica, '') FROM address_leases JOIN runs ON runs.id = run WHERE pool = ? ORDER BY leased, address`, pool)
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of pool %s that runs hold: %w", pool, err)
	}
	return leases, nil
}

// ReleaseRun ends all leases of a run, once none of its delegates uses them. Only the run's owner may.
func (s *Store) ReleaseRun(ctx context.Context, run string) error {
	return s.writeRun(ctx, "releasing the addresses of run "+run, run, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM address_leases WHERE run = ?`, run)
		return err
	})
}
