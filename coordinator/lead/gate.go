package lead

import (
	"time"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

const (
	// presume is how long a new leader sends nothing if something is owed from
	// before it: a worker may have that in hand for a slot that is another's by
	// now, and says so when it attaches, which may be after the other has.
	presume = 500 * time.Millisecond
	// utter is how long a worker that has attached may take to say what it has
	// in hand of each of its slots, which follows at once.
	utter = 50 * time.Millisecond
)

// gate keeps a new leader from sending what is in somebody's hands. The zero
// gate is open. Owned by the loop.
type gate struct {
	opens   time.Time
	awaited map[string]struct{} // workers that may have something in hand; nil: that is not known
}

// newGate returns a gate that opens once all have attached of whom the leader
// before said that they have something in hand, or when presume is over. If
// that one has said nothing, it is not known who does.
func newGate(farewell *linkv1.Farewell, now time.Time) gate {
	if farewell == nil {
		return gate{opens: now.Add(presume)}
	}
	if len(farewell.GetWorkers()) == 0 {
		return gate{}
	}
	g := gate{opens: now.Add(presume), awaited: make(map[string]struct{})}
	for _, id := range farewell.GetWorkers() {
		g.awaited[id] = struct{}{}
	}
	return g
}

// heard takes note that a worker has attached.
func (g *gate) heard(worker string, now time.Time) {
	if _, awaited := g.awaited[worker]; !awaited {
		return
	}
	if delete(g.awaited, worker); len(g.awaited) > 0 {
		return
	}
	if soon := now.Add(utter); soon.Before(g.opens) {
		g.opens = soon
	}
}
