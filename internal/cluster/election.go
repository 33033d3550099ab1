package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// claimPause is how long Campaign waits before it tries again to take a key
// from which the store did not answer, of which up to half is left out by
// chance.
const claimPause = time.Second

// unknown is the revision of a key of which nothing is known yet.
const unknown = -1

// Claim is a key that a member holds on its lease. It is held until the lease
// ends or Resign is called.
type Claim struct {
	Key string
	// Revision of the store at which the key was taken. Of two claims to one
	// key the later has the higher.
	Revision int64

	store Store
}

// Campaign takes key for the member, with value, as soon as nobody else holds
// it: members that campaign for one key take it one after the other. It
// returns ErrLeaseGone when the member has lost its lease, or the error of ctx.
// A store that cannot be reached is waited for. A key that is on the member's
// lease already is the member's: its earlier try succeeded unheard.
//
// The claim says who should act, not who may: by the time Campaign returns, the
// lease may have ended.
func Campaign(ctx context.Context, member *Member, key string, value []byte) (Claim, error) {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	views := member.store.Watch(watching, key)
	holder := Entry{Revision: unknown}
	var again <-chan time.Time // while a try may have to be repeated
	for {
		select {
		case <-ctx.Done():
			return Claim{}, fmt.Errorf("campaigning for %s: %w", key, ctx.Err())
		case <-member.Lost():
			return Claim{}, fmt.Errorf("campaigning for %s: %w", key, ErrLeaseGone)
		case view, open := <-views:
			if !open { // ctx has ended
				views = nil
				continue
			}
			holder = find(view, key)
		case <-again:
		}
		again = nil
		if holder.Revision == 0 {
			var err error
			holder.Revision, err = member.take(ctx, key, value)
			if errors.Is(err, ErrLeaseGone) {
				return Claim{}, fmt.Errorf("campaigning for %s: %w", key, err)
			}
			holder.Lease = member.Lease()
			// If it was not ours to have, the view says whose it is; unless
			// it was free again before the view was made.
			again = time.After(claimPause/2 + rand.N(claimPause/2)) //nolint:gosec // spreading, not secrecy
		}
		if holder.Revision > 0 && holder.Lease == member.Lease() {
			return Claim{Key: key, Revision: holder.Revision, store: member.store}, nil
		}
	}
}

// take tries once to create key, and returns the revision of success, or 0.
func (m *Member) take(ctx context.Context, key string, value []byte) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, m.ttl/quarters)
	defer cancel()
	revision, _, err := m.store.Put(ctx, key, value, m.lease, 0)
	return revision, err
}

// Resign lets go of the key, if it is still held by this claim.
func (c Claim) Resign(ctx context.Context) error {
	if _, err := c.store.Delete(ctx, c.Key, c.Revision); err != nil {
		return fmt.Errorf("resigning: %w", err)
	}
	return nil
}

// awaitFree returns when key does not exist.
func awaitFree(ctx context.Context, store Store, key string) error {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	for view := range store.Watch(watching, key) {
		if find(view, key).Revision == 0 {
			return nil
		}
	}
	return ctx.Err()
}

// find returns the entry of key, or the zero Entry. A watch of a key also
// sees those that merely begin like it.
func find(view []Entry, key string) Entry {
	for _, entry := range view {
		if entry.Key == key {
			return entry
		}
	}
	return Entry{}
}
