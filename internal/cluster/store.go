package cluster

import (
	"context"
	"errors"
	"time"
)

// What can go wrong. Any other error means that the store cannot be reached
// just now, and that the same call may be tried again.
var (
	// ErrLeaseGone: the lease has expired or was revoked; its keys are gone.
	ErrLeaseGone = errors.New("cluster: lease is gone")
)

// LeaseID names a lease. NoLease keeps a key until it is deleted.
type LeaseID int64

// NoLease is the lease of a key that outlives every process.
const NoLease LeaseID = 0

// Entry is one key as the store has it.
type Entry struct {
	Key      string
	Value    []byte
	Lease    LeaseID
	Revision int64 // of the last change to this key; grows over the whole store
}

// Store is what Fanfare needs of etcd. Safe for concurrent use.
type Store interface {
	// Grant makes a lease that ends ttl after it was last kept alive.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)
	// KeepAlive renews a lease once. ErrLeaseGone if there is none.
	KeepAlive(ctx context.Context, lease LeaseID) error
	// Revoke ends a lease now; its keys go in one revision. Revoking one that
	// is gone is no error.
	Revoke(ctx context.Context, lease LeaseID) error

	// Put sets key on lease, on condition that the key's revision is still
	// ifRevision (0: that it does not exist). It returns the key's new
	// revision, or ok false when the condition did not hold. ErrLeaseGone if
	// the lease has ended.
	Put(ctx context.Context, key string, value []byte, lease LeaseID, ifRevision int64) (revision int64, ok bool, err error)
	// Delete removes key on condition that its revision is still ifRevision.
	Delete(ctx context.Context, key string, ifRevision int64) (ok bool, err error)

	// List returns the keys that begin with prefix, in order, all of one
	// revision.
	List(ctx context.Context, prefix string) ([]Entry, error)
	// Watch sends the keys that begin with prefix, whole and in order: first
	// as they are, then again after each change. Changes that come faster
	// than the receiver takes them are merged: it always gets the newest
	// view and may miss ones between. A lost connection is mended inside.
	// The channel closes when ctx ends.
	Watch(ctx context.Context, prefix string) <-chan []Entry
}
