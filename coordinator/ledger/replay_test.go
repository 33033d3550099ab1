package ledger

import (
	"fmt"
	"slices"
	"testing"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// TestEndedReplaysAreBounded: the newest that have ended are remembered, and
// all that run.
func TestEndedReplaysAreBounded(t *testing.T) {
	b := begin(t, nil)
	change := func(n int, state fanfarev1.Replay_State) {
		t.Helper()
		b.must(t, &linkv1.Record{Replays: []*linkv1.ReplayChange{putReplay(fmt.Sprintf("rpl_%04d", n), state)}})
	}
	const all = maxEndedReplays + 20
	for n := range all {
		change(n, fanfarev1.Replay_RUNNING)
	}
	if got := len(b.ledger.Replays()); got != all {
		t.Fatalf("%d replays run, want %d", got, all)
	}
	for n := range maxEndedReplays {
		change(n, []fanfarev1.Replay_State{fanfarev1.Replay_DONE, fanfarev1.Replay_CANCELLED}[n%2])
	}
	if got := len(b.ledger.Replays()); got != all {
		t.Fatalf("%d replays after as many have ended as are remembered, want %d", got, all)
	}
	change(all-1, fanfarev1.Replay_DONE) // the newest: the oldest is forgotten
	got := b.ledger.Replays()
	if len(got) != all-1 || got[0] != "rpl_0001" || !slices.Contains(got, fmt.Sprintf("rpl_%04d", all-1)) {
		t.Errorf("%d replays from %s on, want %d from rpl_0001 on", len(got), got[0], all-1)
	}
	if b.ledger.Replay("rpl_0000") != nil {
		t.Error("the oldest is still there")
	}
	if got := b.ledger.Replay(fmt.Sprintf("rpl_%04d", maxEndedReplays)).GetReplay().GetState(); got != fanfarev1.Replay_RUNNING {
		t.Errorf("one that runs is %v", got)
	}
	b.must(t, &linkv1.Record{Replays: []*linkv1.ReplayChange{{Id: "rpl_0001"}, {Id: "rpl_9999"}}})
	if got := len(b.ledger.Replays()); got != all-2 {
		t.Errorf("%d replays after one was deleted, want %d", got, all-2)
	}
	sound(t, b.ledger)
}
