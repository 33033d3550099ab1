// Package clustertest holds every implementation of cluster.Store to the same
// promises: those of the comments in that interface.
package clustertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-dev/fanfare/internal/cluster"
)

const (
	// ttl is that of the leases that a case lets expire: the shortest that
	// every store grants.
	ttl = time.Second
	// long is the ttl of leases that must not expire by themselves.
	long = time.Hour
	// patience is how long a case waits for what should happen.
	patience = 20 * time.Second
)

// Run runs every case. open returns a new, empty store.
func Run(t *testing.T, open func(*testing.T) cluster.Store) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) { c.test(&suite{T: t, store: open(t)}) })
	}
}

// RunInBubble runs every case, each in a synctest bubble of its own.
func RunInBubble(t *testing.T, open func(*testing.T) cluster.Store) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { c.test(&suite{T: t, store: open(t)}) })
		})
	}
}

// testCase is one promise.
type testCase struct {
	name string
	test func(*suite)
}

func cases() []testCase {
	return []testCase{
		{"put creates", testPutCreates},
		{"put compares the revision", testPutCompares},
		{"put moves a key between leases", testPutMovesLease},
		{"put on a lease that has ended", testPutOnEndedLease},
		{"one of many creates", testOneCreates},
		{"delete compares the revision", testDelete},
		{"list", testList},
		{"revisions grow", testRevisionsGrow},
		{"revoke", testRevoke},
		{"a lease expires", testExpiry},
		{"a lease is kept alive", testKeepAlive},
		{"watch follows", testWatchFollows},
		{"watch starts empty", testWatchStartsEmpty},
		{"watch keeps to its prefix", testWatchPrefix},
		{"watch merges", testWatchMerges},
		{"watch ends", testWatchEnds},
		{"views stay as they were sent", testViewsStay},
	}
}

// suite is one case with its store.
type suite struct {
	*testing.T
	store cluster.Store
}

func testPutCreates(s *suite) {
	lease := s.grant(long)
	revision := s.put("key", "value", lease, 0)
	if revision <= 0 {
		s.Errorf("revision of a new key = %d, want more than 0", revision)
	}
	s.wantList("", cluster.Entry{Key: "key", Value: []byte("value"), Lease: lease, Revision: revision})
	s.refusePut("key", "other", lease, 0)
	s.refusePut("absent", "other", lease, revision)
	s.wantList("", cluster.Entry{Key: "key", Value: []byte("value"), Lease: lease, Revision: revision})
}

func testPutCompares(s *suite) {
	first := s.put("key", "1", cluster.NoLease, 0)
	second := s.put("key", "2", cluster.NoLease, first)
	s.refusePut("key", "3", cluster.NoLease, first)
	s.refusePut("key", "3", cluster.NoLease, second+1)
	s.wantList("", cluster.Entry{Key: "key", Value: []byte("2"), Revision: second})
}

// The assigner puts shards on the leases of workers, and moves them.
func testPutMovesLease(s *suite) {
	from, to := s.grant(long), s.grant(long)
	first := s.put("moved", "1", from, 0)
	second := s.put("moved", "2", to, first)
	freed := s.put("freed", "1", to, 0)
	freed = s.put("freed", "2", cluster.NoLease, freed)
	s.revoke(from)
	s.wantList("",
		cluster.Entry{Key: "freed", Value: []byte("2"), Revision: freed},
		cluster.Entry{Key: "moved", Value: []byte("2"), Lease: to, Revision: second})
	s.revoke(to)
	s.wantList("", cluster.Entry{Key: "freed", Value: []byte("2"), Revision: freed})
}

func testPutOnEndedLease(s *suite) {
	lease := s.grant(long)
	revision := s.put("kept", "1", cluster.NoLease, 0)
	s.revoke(lease)
	for _, test := range []struct {
		key        string
		ifRevision int64
	}{{"new", 0}, {"kept", revision}} {
		_, ok, err := s.store.Put(s.Context(), test.key, []byte("2"), lease, test.ifRevision)
		if ok || !errors.Is(err, cluster.ErrLeaseGone) {
			s.Errorf("Put(%s) on an ended lease = %t, %v; want ErrLeaseGone", test.key, ok, err)
		}
	}
	s.wantList("", cluster.Entry{Key: "kept", Value: []byte("1"), Revision: revision})
}

func testOneCreates(s *suite) {
	const racers = 16
	var winners atomic.Int32
	var race sync.WaitGroup
	for i := range racers {
		race.Go(func() {
			_, ok, err := s.store.Put(s.Context(), "key", fmt.Append(nil, i), cluster.NoLease, 0)
			if err != nil {
				s.Errorf("Put: %v", err)
			}
			if ok {
				winners.Add(1)
			}
		})
	}
	race.Wait()
	if got := winners.Load(); got != 1 {
		s.Errorf("%d of %d created the key, want 1", got, racers)
	}
}

func testDelete(s *suite) {
	first := s.put("key", "1", cluster.NoLease, 0)
	second := s.put("key", "2", cluster.NoLease, first)
	for _, revision := range []int64{0, first, second + 1} {
		if s.remove("key", revision) {
			s.Errorf("Delete at revision %d succeeded, the key is at %d", revision, second)
		}
	}
	if !s.remove("key", second) {
		s.Error("Delete at the key's revision did not succeed")
	}
	if s.remove("key", second) {
		s.Error("Delete of a deleted key succeeded")
	}
	s.wantList("")
	if again := s.put("key", "3", cluster.NoLease, 0); again <= second {
		s.Errorf("revision of the key made again = %d, want more than %d", again, second)
	}
}

func testList(s *suite) {
	want := make([]cluster.Entry, 0, 100)
	for i := range 100 {
		i = (i * 37) % 100
		key := fmt.Sprintf("a/%d", i)
		want = append(want, cluster.Entry{Key: key, Value: []byte(key), Revision: s.put(key, key, cluster.NoLease, 0)})
	}
	s.put("a", "before", cluster.NoLease, 0)
	s.put("a0", "after", cluster.NoLease, 0)
	slices.SortFunc(want, func(x, y cluster.Entry) int { return strings.Compare(x.Key, y.Key) })
	s.wantList("a/", want...)
	s.wantList("b")
}

func testRevisionsGrow(s *suite) {
	lease := s.grant(long)
	revisions := []int64{s.put("a", "1", lease, 0), s.put("b", "1", lease, 0)}
	revisions = append(revisions, s.put("a", "2", lease, revisions[0]))
	s.remove("b", revisions[1])
	revisions = append(revisions, s.put("c", "1", cluster.NoLease, 0))
	s.revoke(lease)
	revisions = append(revisions, s.put("a", "3", cluster.NoLease, 0))
	for i := range revisions[1:] {
		if revisions[i+1] <= revisions[i] {
			s.Errorf("revisions %v do not grow", revisions)
		}
	}
}

func testRevoke(s *suite) {
	lease := s.grant(long)
	s.put("a", "1", lease, 0)
	s.put("b", "1", lease, 0)
	s.revoke(lease)
	s.wantList("")
	s.revoke(lease)
	s.wantLeaseGone(lease)
	s.wantLeaseGone(lease + 1)
}

// Whoever watches must see a member with all it owns, or nothing of it.
func testExpiry(s *suite) {
	views := s.watch("")
	kept, dying := s.grant(long), s.grant(ttl)
	s.put("kept", "1", kept, 0)
	keys := []string{"dying/1", "dying/2", "dying/3"}
	for _, key := range keys {
		s.put(key, "1", dying, 0)
	}
	s.await(views, append(keys, "kept")...)
	view := s.next(views)
	if got := keysOf(view); !slices.Equal(got, []string{"kept"}) {
		s.Errorf("view after the lease expired = %v, want all its keys gone at once", got)
	}
	s.wantLeaseGone(dying)
	s.revoke(dying)
}

func testKeepAlive(s *suite) {
	kept, left := s.grant(ttl), s.grant(ttl)
	s.put("kept", "1", kept, 0)
	s.put("left", "1", left, 0)
	views := s.watch("left")
	s.await(views, "left")
	tick := time.NewTicker(ttl / 8)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case view := <-views:
			over = len(view) == 0
		case <-tick.C:
		}
		if err := s.store.KeepAlive(s.Context(), kept); err != nil {
			s.Fatalf("KeepAlive: %v", err)
		}
	}
	s.wantKeys("", "kept")
}

func testWatchFollows(s *suite) {
	first := s.put("b", "1", cluster.NoLease, 0)
	views := s.watch("")
	s.wantView(views, cluster.Entry{Key: "b", Value: []byte("1"), Revision: first})
	lease := s.grant(long)
	second := s.put("a", "1", lease, 0)
	s.wantView(views,
		cluster.Entry{Key: "a", Value: []byte("1"), Lease: lease, Revision: second},
		cluster.Entry{Key: "b", Value: []byte("1"), Revision: first})
	third := s.put("b", "2", cluster.NoLease, first)
	s.wantView(views,
		cluster.Entry{Key: "a", Value: []byte("1"), Lease: lease, Revision: second},
		cluster.Entry{Key: "b", Value: []byte("2"), Revision: third})
	s.remove("b", third)
	s.wantView(views, cluster.Entry{Key: "a", Value: []byte("1"), Lease: lease, Revision: second})
	s.revoke(lease)
	s.wantView(views)
}

func testWatchStartsEmpty(s *suite) {
	views := s.watch("a")
	s.wantView(views)
	revision := s.put("a", "1", cluster.NoLease, 0)
	s.wantView(views, cluster.Entry{Key: "a", Value: []byte("1"), Revision: revision})
}

func testWatchPrefix(s *suite) {
	views := s.watch("a/")
	s.wantView(views)
	s.put("a", "1", cluster.NoLease, 0)
	s.put("a0", "1", cluster.NoLease, 0)
	s.put("b", "1", cluster.NoLease, 0)
	revision := s.put("a/1", "1", cluster.NoLease, 0)
	s.wantView(views, cluster.Entry{Key: "a/1", Value: []byte("1"), Revision: revision})
}

func testWatchMerges(s *suite) {
	const changes = 200
	views := s.watch("")
	s.wantView(views)
	var revision int64
	for range changes {
		revision = s.put("key", "1", cluster.NoLease, revision)
	}
	var seen int64
	taken := 0
	for seen < revision {
		view := s.next(views)
		taken++
		if len(view) != 1 || view[0].Revision <= seen {
			s.Fatalf("view %v after revision %d", view, seen)
		}
		seen = view[0].Revision
	}
	if taken > changes/2 {
		s.Errorf("%d views for %d changes made before the first was taken, want them merged", taken, changes)
	}
}

func testWatchEnds(s *suite) {
	s.put("key", "1", cluster.NoLease, 0)
	ctx, cancel := context.WithCancel(s.Context())
	read, unread := s.store.Watch(ctx, ""), s.store.Watch(ctx, "")
	s.await(read, "key")
	cancel()
	for range read {
		s.Error("a view after the end of the context")
	}
	late := 0
	for range unread { // one may have been on its way
		late++
	}
	if late > 1 {
		s.Errorf("%d views after the end of the context", late)
	}
}

// A view is the receiver's: what happens later must not change it.
func testViewsStay(s *suite) {
	views := s.watch("")
	first := s.put("a", "1", cluster.NoLease, 0)
	second := s.put("b", "1", cluster.NoLease, 0)
	view := s.await(views, "a", "b")
	was := slices.Clone(view)
	s.remove("a", first)
	s.put("b", "2", cluster.NoLease, second)
	s.put("c", "1", cluster.NoLease, 0)
	s.await(views, "b", "c")
	if diff := cmp.Diff(was, view); diff != "" {
		s.Errorf("a view changed after it was sent (-sent +now):\n%s", diff)
	}
}

func (s *suite) grant(ttl time.Duration) cluster.LeaseID {
	s.Helper()
	lease, err := s.store.Grant(s.Context(), ttl)
	if err != nil || lease == cluster.NoLease {
		s.Fatalf("Grant = %d, %v", lease, err)
	}
	return lease
}

func (s *suite) revoke(lease cluster.LeaseID) {
	s.Helper()
	if err := s.store.Revoke(s.Context(), lease); err != nil {
		s.Fatalf("Revoke: %v", err)
	}
}

func (s *suite) put(key, value string, lease cluster.LeaseID, ifRevision int64) int64 {
	s.Helper()
	revision, ok, err := s.store.Put(s.Context(), key, []byte(value), lease, ifRevision)
	if !ok || err != nil {
		s.Fatalf("Put(%s) at revision %d = %t, %v", key, ifRevision, ok, err)
	}
	return revision
}

func (s *suite) refusePut(key, value string, lease cluster.LeaseID, ifRevision int64) {
	s.Helper()
	_, ok, err := s.store.Put(s.Context(), key, []byte(value), lease, ifRevision)
	if ok || err != nil {
		s.Errorf("Put(%s) at revision %d = %t, %v; want it refused", key, ifRevision, ok, err)
	}
}

func (s *suite) remove(key string, ifRevision int64) bool {
	s.Helper()
	ok, err := s.store.Delete(s.Context(), key, ifRevision)
	if err != nil {
		s.Fatalf("Delete(%s): %v", key, err)
	}
	return ok
}

func (s *suite) wantLeaseGone(lease cluster.LeaseID) {
	s.Helper()
	if err := s.store.KeepAlive(s.Context(), lease); !errors.Is(err, cluster.ErrLeaseGone) {
		s.Errorf("KeepAlive of an ended lease: %v, want ErrLeaseGone", err)
	}
}

func (s *suite) wantList(prefix string, want ...cluster.Entry) {
	s.Helper()
	got, err := s.store.List(s.Context(), prefix)
	if err != nil {
		s.Fatalf("List: %v", err)
	}
	s.wantSame("List("+prefix+")", got, want)
}

func (s *suite) wantKeys(prefix string, want ...string) {
	s.Helper()
	got, err := s.store.List(s.Context(), prefix)
	if err != nil {
		s.Fatalf("List: %v", err)
	}
	if keys := keysOf(got); !slices.Equal(keys, want) {
		s.Errorf("keys %v, want %v", keys, want)
	}
}

func (s *suite) wantSame(what string, got, want []cluster.Entry) {
	s.Helper()
	if len(got) == 0 && len(want) == 0 {
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// watch follows prefix until the case is over.
func (s *suite) watch(prefix string) <-chan []cluster.Entry {
	ctx, cancel := context.WithCancel(s.Context())
	views := s.store.Watch(ctx, prefix)
	s.Cleanup(func() {
		cancel()
		for range views { // until it is closed
			continue
		}
	})
	return views
}

// next takes one view.
func (s *suite) next(views <-chan []cluster.Entry) []cluster.Entry {
	s.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case view, open := <-views:
		if !open {
			s.Fatal("the watch ended")
		}
		return view
	case <-late.C:
		s.Fatalf("no view within %s", patience)
	}
	return nil
}

// wantView takes one view and compares it.
func (s *suite) wantView(views <-chan []cluster.Entry, want ...cluster.Entry) {
	s.Helper()
	s.wantSame("view", s.next(views), want)
}

// await takes views until one has just these keys.
func (s *suite) await(views <-chan []cluster.Entry, keys ...string) []cluster.Entry {
	s.Helper()
	for {
		if view := s.next(views); slices.Equal(keysOf(view), keys) {
			return view
		}
	}
}

func keysOf(view []cluster.Entry) []string {
	keys := make([]string, len(view))
	for i, entry := range view {
		keys[i] = entry.Key
	}
	return keys
}
