package cluster_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-dev/fanfare/internal/cluster"
)

const ttl = cluster.DefaultTTL

func config(id cluster.MemberID) cluster.MemberConfig {
	return cluster.MemberConfig{
		Info:   cluster.Info{ID: id, Role: cluster.Worker, Address: "127.0.0.1:7400", Weight: 3},
		Clock:  cluster.MonotonicClock(),
		Logger: slog.New(slog.DiscardHandler),
	}
}

func join(t *testing.T, store cluster.Store, id cluster.MemberID) *cluster.Member {
	t.Helper()
	member, err := cluster.Join(t.Context(), store, config(id))
	if err != nil {
		t.Fatalf("Join(%s): %v", id, err)
	}
	return member
}

// run keeps member alive until the test is over, and returns where Run's
// result will be.
func run(t *testing.T, member *cluster.Member) <-chan error {
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		result <- member.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return result
}

func lost(member *cluster.Member) bool {
	select {
	case <-member.Lost():
		return true
	default:
		return false
	}
}

// after lets virtual time pass.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestMemberPublishesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := cluster.NewMemory().Client()
		member := join(t, store, "w1")
		entries, err := store.List(t.Context(), cluster.MembersPrefix)
		if err != nil || len(entries) != 1 {
			t.Fatalf("List = %v, %v", entries, err)
		}
		if entries[0].Key != "members/w1" || entries[0].Lease != member.Lease() {
			t.Errorf("member's key = %+v, want it on lease %d", entries[0], member.Lease())
		}
		got, err := cluster.DecodeValue[cluster.Info](entries[0])
		want := cluster.Info{ID: "w1", Role: cluster.Worker, Address: "127.0.0.1:7400", Weight: 3, Started: time.Now()}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("published (-want +got): %v\n%s", err, diff)
		}
	})
}

func TestMemberLivesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := cluster.NewMemory()
		member := join(t, memory.Client(), "w1")
		run(t, member)
		for range 1000 {
			after(time.Second)
			if !member.Alive() || lost(member) {
				t.Fatal("a member whose store answers is not alive")
			}
		}
		if err := member.Leave(t.Context()); err != nil {
			t.Errorf("Leave: %v", err)
		}
		if member.Alive() || !lost(member) {
			t.Error("alive after leaving")
		}
		wantKeys(t, memory.Client())
	})
}

// A member that cannot reach the store must be sure of its lease for less long
// than the store keeps it, whenever the connection breaks.
func TestMemberInDoubtBeforeItsLeaseEnds(t *testing.T) {
	for _, fault := range []cluster.Fault{cluster.Refuse, cluster.Hang} {
		for cut := range 50 {
			synctest.Test(t, func(t *testing.T) {
				memory := cluster.NewMemory()
				client := memory.Client()
				member := join(t, client, "w1")
				result := run(t, member)
				after(ttl + time.Duration(cut)*100*time.Millisecond)
				client.Break(fault)
				for member.Alive() {
					after(10 * time.Millisecond)
				}
				if lost(member) {
					t.Error("lost without a word of the store")
				}
				if len(memory.Leases()) != 1 {
					t.Error("the store ended the lease while the member was sure of it")
				}
				after(ttl)
				if len(memory.Leases()) != 0 {
					t.Error("the store still has the lease")
				}
				client.Heal()
				if err := <-result; !errors.Is(err, cluster.ErrLeaseGone) {
					t.Errorf("Run = %v, want ErrLeaseGone", err)
				}
				if member.Alive() || !lost(member) {
					t.Error("alive after the lease was lost")
				}
			})
		}
	}
}

func TestMemberOutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := cluster.NewMemory().Client()
		member := join(t, client, "w1")
		run(t, member)
		for range 100 {
			client.Break(cluster.Refuse)
			after(ttl / 3)
			client.Heal()
			after(ttl / 8)
			if !member.Alive() || lost(member) {
				t.Fatal("a short outage ended the member")
			}
		}
	})
}

// The deadline counts from when a renewal was sent, not from its answer.
func TestMemberDeadlineCountsFromSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := cluster.NewMemory().Client()
		clock := cluster.MonotonicClock()
		member := join(t, slowReplies{client, ttl / 5}, "w1")
		joined := clock()
		if got, want := member.Deadline(), joined-2*(ttl/5)+ttl*3/4; got != want {
			t.Errorf("deadline after joining = %s, want %s", got, want)
		}
		run(t, member)
		for range 20 {
			after(ttl / 10)
			// At best the renewal was sent just now, less the time of the reply.
			if latest := clock() - ttl/5 + ttl*3/4; member.Deadline() > latest {
				t.Fatalf("deadline %s, want at most %s", member.Deadline(), latest)
			}
		}
	})
}

// slowReplies delays the answers that concern leases and keys.
type slowReplies struct {
	cluster.Store
	delay time.Duration
}

func (s slowReplies) Grant(ctx context.Context, ttl time.Duration) (cluster.LeaseID, error) {
	defer after(s.delay)
	return s.Store.Grant(ctx, ttl)
}

func (s slowReplies) KeepAlive(ctx context.Context, lease cluster.LeaseID) error {
	defer func() { <-time.After(s.delay) }()
	return s.Store.KeepAlive(ctx, lease)
}

func (s slowReplies) Put(ctx context.Context, key string, value []byte, lease cluster.LeaseID, ifRevision int64) (int64, bool, error) {
	defer after(s.delay)
	return s.Store.Put(ctx, key, value, lease, ifRevision)
}

func TestJoinWaitsForTheSameID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := cluster.NewMemory()
		first := join(t, memory.Client(), "w1") // killed: nobody runs it
		began := time.Now()
		second := join(t, memory.Client(), "w1")
		if waited := time.Since(began); waited != ttl {
			t.Errorf("joined after %s, want to wait for the first lease, %s", waited, ttl)
		}
		if got := memory.Leases(); len(got) != 1 || got[0] != second.Lease() || got[0] == first.Lease() {
			t.Errorf("leases %v, want only that of the second, %d", got, second.Lease())
		}
	})
}

// When the reply to the key's creation is lost, Join fails, and the lease must
// not stay behind with the id.
func TestJoinLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := cluster.NewMemory()
		store := failingPut{memory.Client()}
		if _, err := cluster.Join(t.Context(), store, config("w1")); err == nil {
			t.Error("Join succeeded though its key was not confirmed")
		}
		if got := memory.Leases(); len(got) != 0 {
			t.Errorf("leases %v left behind", got)
		}
	})
}

// failingPut fails in the caller's eyes, but happens.
type failingPut struct {
	cluster.Store
}

func (s failingPut) Put(ctx context.Context, key string, value []byte, lease cluster.LeaseID, ifRevision int64) (int64, bool, error) {
	if _, _, err := s.Store.Put(ctx, key, value, lease, ifRevision); err != nil {
		return 0, false, err
	}
	return 0, false, context.DeadlineExceeded
}

func TestJoinValidates(t *testing.T) {
	store := cluster.NewMemory().Client()
	for _, spoil := range []func(*cluster.MemberConfig){
		func(c *cluster.MemberConfig) { c.Info.ID = "" },
		func(c *cluster.MemberConfig) { c.Info.ID = "a/b" },
		func(c *cluster.MemberConfig) { c.Info.Role = "observer" },
		func(c *cluster.MemberConfig) { c.TTL = -time.Second },
	} {
		bad := config("w1")
		spoil(&bad)
		if _, err := cluster.Join(t.Context(), store, bad); err == nil {
			t.Errorf("Join accepted %+v", bad.Info)
		}
	}
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := cluster.NewMemory().Client()
		member := join(t, client, "w1")
		client.Break(cluster.LoseReply)
		if err := member.Drain(t.Context()); err == nil {
			t.Error("Drain without a reply succeeded")
		}
		client.Heal()
		if err := member.Drain(t.Context()); err != nil {
			t.Errorf("Drain again: %v", err)
		}
		entries, err := client.List(t.Context(), cluster.MembersPrefix)
		if err != nil || len(entries) != 1 {
			t.Fatalf("List = %v, %v", entries, err)
		}
		if info, err := cluster.DecodeValue[cluster.Info](entries[0]); err != nil || !info.Draining {
			t.Errorf("published %+v, %v; want it draining", info, err)
		}
		if entries[0].Lease != member.Lease() {
			t.Error("the member's key has left its lease")
		}
		after(ttl)
		if err := member.Drain(t.Context()); !errors.Is(err, cluster.ErrLeaseGone) {
			t.Errorf("Drain after the lease has ended: %v, want ErrLeaseGone", err)
		}
	})
}

func TestLiveJoinsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := cluster.NewMemory()
		client := memory.Client()
		lives := make(chan *cluster.Member)
		causes := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() {
			result <- cluster.Live(ctx, client, config("w1"), func(ctx context.Context, member *cluster.Member) error {
				lives <- member
				<-ctx.Done()
				causes <- context.Cause(ctx)
				after(ttl) // drains; the lease must last as long
				return ctx.Err()
			})
		}()
		first := <-lives
		client.Break(cluster.Hang)
		after(2 * ttl)
		client.Heal()
		if cause := <-causes; !errors.Is(cause, cluster.ErrLeaseGone) {
			t.Errorf("first life ended by %v, want ErrLeaseGone", cause)
		}
		second := <-lives
		if first.Alive() || !second.Alive() || first.Lease() == second.Lease() {
			t.Error("the second life is not a new one")
		}
		cancel()
		if cause := <-causes; !errors.Is(cause, context.Canceled) {
			t.Errorf("second life ended by %v, want the end of its context", cause)
		}
		after(ttl * 9 / 10)
		if !second.Alive() {
			t.Error("not alive while it drains")
		}
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("Live = %v, want what serve returned", err)
		}
		if got := memory.Leases(); len(got) != 0 {
			t.Errorf("leases %v left behind", got)
		}
	})
}

func TestLiveReturnsTheErrorOfServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := cluster.NewMemory()
		broken := errors.New("broken")
		err := cluster.Live(t.Context(), memory.Client(), config("w1"),
			func(context.Context, *cluster.Member) error { return broken })
		if !errors.Is(err, broken) {
			t.Errorf("Live = %v, want the error of serve", err)
		}
		if got := memory.Leases(); len(got) != 0 {
			t.Errorf("leases %v left behind", got)
		}
	})
}

func TestLiveWaitsForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := cluster.NewMemory().Client()
		client.Break(cluster.Refuse)
		served := make(chan struct{})
		result := make(chan error, 1)
		go func() {
			result <- cluster.Live(t.Context(), client, config("w1"), func(context.Context, *cluster.Member) error {
				close(served)
				return nil
			})
		}()
		after(time.Minute)
		select {
		case <-served:
			t.Error("served without a store")
		default:
		}
		client.Heal()
		if err := <-result; err != nil {
			t.Errorf("Live = %v", err)
		}
		<-served
	})
}

func TestBootClock(t *testing.T) {
	clock := cluster.BootClock()
	before := clock()
	<-time.After(time.Millisecond)
	if passed := clock() - before; passed < time.Millisecond || passed > time.Minute {
		t.Errorf("%s passed in a millisecond", passed)
	}
}
