package ledger

import (
	"cmp"
	"maps"
	"slices"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// maxEndedReplays is how many replays that have ended a partition remembers.
const maxEndedReplays = 100

// foldReplay puts or deletes a replay.
func (l *Ledger) foldReplay(change *linkv1.ReplayChange) {
	if change.GetPut() == nil {
		delete(l.replays, change.GetId())
		return
	}
	l.replays[change.GetId()] = change.GetPut()
	ended := 0
	for _, id := range slices.Backward(l.Replays()) { // ids sort by the time they were made
		if l.replays[id].GetReplay().GetState() == fanfarev1.Replay_RUNNING {
			continue
		}
		if ended++; ended > maxEndedReplays {
			delete(l.replays, id)
		}
	}
}

// Replay returns a replay by its id, or nil. It is never changed in place.
func (l *Ledger) Replay(id string) *linkv1.StoredReplay { return l.replays[id] }

// Replays returns the ids of all replays, oldest first.
func (l *Ledger) Replays() []string {
	return slices.SortedFunc(maps.Keys(l.replays), cmp.Compare[string])
}
