package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// listTimeout bounds the list with which a watch begins, so that a list
	// that is lost on the way is asked again.
	listTimeout = 10 * time.Second
	// relistPause is how long a watch that broke waits before it lists anew;
	// the wait is drawn from half to the whole of it, so that a restart of
	// etcd does not bring every process back in the same instant.
	relistPause = time.Second
)

// Etcd is the Store that production uses: etcd, embedded or external.
//
// etcd counts leases in whole seconds, and never less than one and a half of
// its election timeouts: Grant rounds up. An expired lease is noticed within
// half a second, and leases are extended by a full ttl when etcd changes its
// leader or restarts. All of these lengthen a lease; none shortens it.
type Etcd struct {
	client *clientv3.Client
	prefix string
}

// NewEtcd keeps its keys under prefix ("/fanfare/"), which callers never see:
// keys given and returned are relative to it. The client stays the caller's
// to close, after every call and watch has ended.
func NewEtcd(client *clientv3.Client, prefix string) *Etcd {
	return &Etcd{client: client, prefix: prefix}
}

// Grant implements Store.
func (e *Etcd) Grant(ctx context.Context, ttl time.Duration) (LeaseID, error) {
	seconds := int64((ttl + time.Second - 1) / time.Second)
	granted, err := e.client.Grant(ctx, seconds)
	if err != nil {
		return NoLease, fmt.Errorf("granting lease: %w", err)
	}
	return LeaseID(granted.ID), nil
}

// KeepAlive implements Store.
func (e *Etcd) KeepAlive(ctx context.Context, lease LeaseID) error {
	if _, err := e.client.KeepAliveOnce(ctx, clientv3.LeaseID(lease)); err != nil {
		return storeError("renewing lease", err)
	}
	return nil
}

// Revoke implements Store.
func (e *Etcd) Revoke(ctx context.Context, lease LeaseID) error {
	_, err := e.client.Revoke(ctx, clientv3.LeaseID(lease))
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("revoking lease: %w", err)
	}
	return nil
}

// Put implements Store.
func (e *Etcd) Put(ctx context.Context, key string, value []byte, lease LeaseID, ifRevision int64) (int64, bool, error) {
	full := e.prefix + key
	put := clientv3.OpPut(full, string(value), clientv3.WithLease(clientv3.LeaseID(lease)))
	done, err := e.client.Txn(ctx).If(atRevision(full, ifRevision)).Then(put).Commit()
	if err != nil {
		return 0, false, storeError("putting "+key, err)
	}
	if !done.Succeeded {
		return 0, false, nil
	}
	return done.Header.GetRevision(), true, nil
}

// Delete implements Store.
func (e *Etcd) Delete(ctx context.Context, key string, ifRevision int64) (bool, error) {
	full := e.prefix + key
	done, err := e.client.Txn(ctx).If(atRevision(full, ifRevision)).Then(clientv3.OpDelete(full)).Commit()
	if err != nil {
		return false, fmt.Errorf("deleting %s: %w", key, err)
	}
	return done.Succeeded, nil
}

// List implements Store.
func (e *Etcd) List(ctx context.Context, prefix string) ([]Entry, error) {
	state, _, err := e.list(ctx, prefix)
	if err != nil {
		return nil, err
	}
	return state.share(), nil
}

// Watch implements Store. Whatever breaks a watch (etcd unreachable or without
// a leader, the revision compacted) is mended in one way: list again, watch on
// from there.
func (e *Etcd) Watch(ctx context.Context, prefix string) <-chan []Entry {
	views := make(chan []Entry)
	go func() {
		defer close(views)
		var last lastView
		for ctx.Err() == nil {
			last = e.follow(ctx, prefix, views, last)
			pause(ctx, relistPause/2+rand.N(relistPause/2)) //nolint:gosec // spreading, not secrecy
		}
	}()
	return views
}

// follow lists prefix and sends every change after that, until ctx ends or the
// watch breaks. It is given the view sent last and returns the same, so that a
// mended watch does not repeat what the receiver has.
func (e *Etcd) follow(ctx context.Context, prefix string, views chan<- []Entry, last lastView) lastView {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	state, revision, err := e.listSoon(ctx, prefix)
	if err != nil {
		return last
	}
	changes := e.client.Watch(clientv3.WithRequireLeader(ctx), e.prefix+prefix,
		clientv3.WithPrefix(), clientv3.WithRev(revision+1))
	fresh := !last.is(state.entries)
	for {
		out := views
		if !fresh {
			out = nil
		}
		select {
		case <-ctx.Done():
			return last
		case out <- state.entries:
			last, fresh = lastView{entries: state.share(), sent: true}, false
		case change, open := <-changes:
			if !open || change.Err() != nil {
				return last
			}
			fresh = e.apply(state, change.Events) || fresh
		}
	}
}

// apply brings state up to date with what one revision changed, and reports
// whether it changed anything.
func (e *Etcd) apply(state *view, events []*clientv3.Event) bool {
	for _, event := range events {
		if event.Type == clientv3.EventTypeDelete {
			state.remove(strings.TrimPrefix(string(event.Kv.Key), e.prefix))
			continue
		}
		state.put(e.entry(event.Kv))
	}
	return len(events) > 0
}

// list reads prefix, and the revision of the whole store at which it was read.
func (e *Etcd) list(ctx context.Context, prefix string) (*view, int64, error) {
	// In order because a range without a sort order comes in key order.
	got, err := e.client.Get(ctx, e.prefix+prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, fmt.Errorf("listing %s: %w", prefix, err)
	}
	state := &view{entries: make([]Entry, 0, len(got.Kvs))}
	for _, kv := range got.Kvs {
		state.entries = append(state.entries, e.entry(kv))
	}
	return state, got.Header.GetRevision(), nil
}

func (e *Etcd) listSoon(ctx context.Context, prefix string) (*view, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	return e.list(ctx, prefix)
}

func (e *Etcd) entry(kv *mvccpb.KeyValue) Entry {
	return Entry{
		Key:      strings.TrimPrefix(string(kv.Key), e.prefix),
		Value:    kv.Value,
		Lease:    LeaseID(kv.Lease),
		Revision: kv.ModRevision,
	}
}

// lastView is what a watch sent last; the zero value is that of a watch that has
// sent nothing yet, to which not even an empty view is the same.
type lastView struct {
	entries []Entry
	sent    bool
}

func (l lastView) is(entries []Entry) bool {
	return l.sent && sameKeys(l.entries, entries)
}

// atRevision holds while the last change to key was at revision; etcd gives a
// key that does not exist revision 0.
func atRevision(key string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "=", revision)
}

// storeError wraps err, as ErrLeaseGone if that is what etcd says.
func storeError(doing string, err error) error {
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("%s: %w", doing, ErrLeaseGone)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// pause waits for d, and reports whether ctx lasted as long.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
