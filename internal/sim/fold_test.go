package sim_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/sim"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// The state of a leader, that of a replay of its whole log, and that of each
// snapshot and the records behind it are the same, to the bit, after a run with
// all that can go wrong: take-overs, records appended twice, late outcomes.
func TestStateIsTheFoldOfTheLog(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("SEED=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRandomRun(t, 1000+seed)
				for range randomSteps {
					r.step()
				}
				r.heal()
				r.publish()
				sim.Pass(2 * time.Minute) // snapshots lie a minute apart
				r.publish()
				checkFolds(t, r.c)
			})
		})
	}
}

func checkFolds(t *testing.T, c *sim.Cluster) {
	t.Helper()
	sequence, live := c.State(0)
	log := c.OpenLog(0)
	defer log.Close() //nolint:errcheck // it was only read
	whole := ledger.New()
	foldTo(t, log, whole, sequence)
	if replayed := stateHash(t, whole); !bytes.Equal(replayed, live) {
		t.Errorf("at record %d the leader's state is %x, a replay gives %x", sequence, live, replayed)
	}
	if whole.Epoch() < 2 {
		t.Errorf("the log has %d epochs: nothing was taken over", whole.Epoch())
	}
	snapshots := 0
	for atMost := uint64(math.MaxUint64); ; snapshots++ {
		at, data, err := log.LoadSnapshot(t.Context(), atMost)
		if err != nil {
			break
		}
		state, err := ledger.Restore(data)
		if err != nil {
			t.Fatal(err)
		}
		until := ledger.New()
		foldTo(t, log, until, at)
		if saved, replayed := stateHash(t, state), stateHash(t, until); !bytes.Equal(saved, replayed) {
			t.Errorf("the snapshot at record %d is %x, a replay gives %x", at, saved, replayed)
		}
		foldTo(t, log, state, sequence)
		if restored := stateHash(t, state); !bytes.Equal(restored, live) {
			t.Errorf("the snapshot at record %d and what is behind it give %x, the leader's state is %x", at, restored, live)
		}
		atMost = at - 1
	}
	if snapshots == 0 {
		t.Error("there is no snapshot")
	}
}

// foldTo folds what a log holds beyond a state, up to a record.
func foldTo(t *testing.T, log eventlog.Log, state *ledger.Ledger, sequence uint64) {
	t.Helper()
	for state.Sequence() < sequence {
		records, err := log.Read(t.Context(), state.Sequence()+1, eventlog.MaxReadRecords)
		if err != nil || len(records) == 0 {
			t.Fatalf("reading record %d: %v", state.Sequence()+1, err)
		}
		for _, r := range records[:min(uint64(len(records)), sequence-state.Sequence())] {
			record, hash := new(linkv1.Record), sha256.Sum256(r.Data)
			if err := proto.Unmarshal(r.Data, record); err != nil {
				t.Fatal(err)
			}
			if _, err := state.Fold(r.Seq, hash[:], record); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func stateHash(t *testing.T, state *ledger.Ledger) []byte {
	t.Helper()
	hash, err := state.StateHash()
	if err != nil {
		t.Fatal(err)
	}
	return hash
}
