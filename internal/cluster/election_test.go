package cluster_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fanfare-dev/fanfare/internal/cluster"
)

type campaignResult struct {
	claim cluster.Claim
	err   error
}

func campaign(ctx context.Context, member *cluster.Member) <-chan campaignResult {
	result := make(chan campaignResult, 1)
	go func() {
		claim, err := cluster.Campaign(ctx, member, cluster.AssignerKey, []byte(member.ID()))
		result <- campaignResult{claim, err}
	}()
	return result
}

func running(result <-chan campaignResult) bool {
	select {
	case <-result:
		return false
	default:
		return true
	}
}

func TestCampaignOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := cluster.NewMemory()
		first, second, third := join(t, memory.Client(), "c1"), join(t, memory.Client(), "c2"), join(t, memory.Client(), "c3")
		dying, stop := context.WithCancel(t.Context())
		died := make(chan error)
		go func() { died <- first.Run(dying) }()
		run(t, second)
		run(t, third)

		held := <-campaign(t.Context(), first)
		if held.err != nil {
			t.Fatal(held.err)
		}
		// Keys that merely begin alike are no concern of it.
		mustPut(t, memory.Client(), cluster.AssignerKey+"-of-old", cluster.NoLease)
		next := campaign(t.Context(), second)
		after(time.Minute)
		if !running(next) {
			t.Fatal("a second holder beside the first")
		}
		stop() // as if killed: the lease is left to expire
		if err := <-died; err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		taken := <-next
		if taken.err != nil || taken.claim.Revision <= held.claim.Revision {
			t.Errorf("second claim = %+v, want it later than %+v", taken, held)
		}
		if waited := time.Since(began); waited > ttl {
			t.Errorf("taken over after %s, want at most %s", waited, ttl)
		}
		last := campaign(t.Context(), third)
		synctest.Wait()
		if err := taken.claim.Resign(t.Context()); err != nil {
			t.Errorf("Resign: %v", err)
		}
		if result := <-last; result.err != nil {
			t.Errorf("third claim: %v", result.err)
		}
		if err := taken.claim.Resign(t.Context()); err != nil {
			t.Errorf("Resign again: %v", err)
		}
		wantKeys(t, memory.Client(), cluster.AssignerKey, cluster.AssignerKey+"-of-old",
			cluster.MemberKey("c2"), cluster.MemberKey("c3"))
	})
}

// The try succeeds, but the store's answer is lost.
func TestCampaignUnheard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := cluster.NewMemory().Client()
		member := join(t, client, "c1")
		client.Break(cluster.LoseReply)
		if result := <-campaign(t.Context(), member); result.err != nil || result.claim.Revision == 0 {
			t.Errorf("claim = %+v, want the key that the member has", result)
		}
	})
}

func TestCampaignWaitsForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := cluster.NewMemory().Client()
		member := join(t, client, "c1")
		client.Break(cluster.Hang)
		result := campaign(t.Context(), member)
		after(ttl / 2)
		client.Heal()
		if got := <-result; got.err != nil {
			t.Errorf("Campaign after the store came back: %v", got.err)
		}
	})
}

func TestCampaignEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := cluster.NewMemory()
		holder := join(t, memory.Client(), "c1")
		run(t, holder)
		if held := <-campaign(t.Context(), holder); held.err != nil {
			t.Fatal(held.err)
		}
		member := join(t, memory.Client(), "c2")
		ctx, cancel := context.WithCancel(t.Context())
		canceled, leaving := campaign(ctx, member), campaign(t.Context(), member)
		synctest.Wait()
		cancel()
		if got := <-canceled; !errors.Is(got.err, context.Canceled) {
			t.Errorf("Campaign = %v, want the error of its context", got.err)
		}
		if err := member.Leave(t.Context()); err != nil {
			t.Error(err)
		}
		if got := <-leaving; !errors.Is(got.err, cluster.ErrLeaseGone) {
			t.Errorf("Campaign of a member that left = %v, want ErrLeaseGone", got.err)
		}
	})
}

// The key is free in the view, taken when it is reached for, and free again
// before the next view, which is then no different from the first.
func TestCampaignSeesThroughMergedViews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := cluster.NewMemory()
		member := join(t, &snatched{Store: memory.Client(), other: memory.Client()}, "c1")
		run(t, member)
		if got := <-campaign(t.Context(), member); got.err != nil {
			t.Error(got.err)
		}
	})
}

// snatched has the assigner's key held by another during the first Put to it.
type snatched struct {
	cluster.Store
	other cluster.Store
	done  bool
}

func (s *snatched) Put(ctx context.Context, key string, value []byte, lease cluster.LeaseID, ifRevision int64) (int64, bool, error) {
	if key != cluster.AssignerKey || s.done {
		return s.Store.Put(ctx, key, value, lease, ifRevision)
	}
	s.done = true
	held, _, err := s.other.Put(ctx, key, nil, cluster.NoLease, 0)
	if err != nil {
		return 0, false, err
	}
	revision, ok, err := s.Store.Put(ctx, key, value, lease, ifRevision)
	if _, err := s.other.Delete(ctx, key, held); err != nil {
		return 0, false, err
	}
	return revision, ok, err
}
