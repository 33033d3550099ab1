package worker

import (
	"fmt"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// maxWarm is how many endpoints with nothing on the wire a worker keeps the
// targets of. There may be a hundred thousand endpoints, and most send nothing
// for a long time; a target is made anew in some microseconds.
const maxWarm = 8192

// route is what is kept of how to send to an endpoint as long as it is there:
// what the queues decide by, and the rest as the leader said it. That becomes a
// target, which takes several times the memory, when something is sent.
//
// While no request is on the wire, a target that is not kept is there only if
// the endpoint is in queues.warmed.
type route struct {
	host    string    // host:port of the URL; empty if it is none
	batch   *batching // nil: each event is sent alone
	encoded []byte    // linkv1.Endpoint, without what only a leader needs
	made    atomic.Pointer[target]
	kept    bool // made is always there: it has a token, or costs much to make
}

// newRoute reads an endpoint, which it may change.
func newRoute(e *linkv1.Endpoint) *route {
	r := &route{host: hostOf(e.GetSubscription().GetUrl()), batch: newBatching(e.GetSubscription())}
	if e.GetCredentials().GetAuthentication().GetOauth2() != nil || e.GetCredentials().GetTls() != nil {
		r.made.Store(newTarget(e))
		r.kept = true
		return r
	}
	if s := e.GetSubscription(); s != nil {
		s.Name, s.Description, s.EventTypes, s.CreateTime, s.UpdateTime, s.Etag = "", "", nil, nil, nil, ""
	}
	var err error
	if r.encoded, err = proto.Marshal(e); err != nil {
		r.made.Store(r.fails(fmt.Errorf("keeping endpoint: %w", err)))
		r.kept = true
	}
	return r
}

// target returns the target, made now if need be. Safe for concurrent use.
func (r *route) target() *target {
	if t := r.made.Load(); t != nil {
		return t
	}
	e := new(linkv1.Endpoint)
	if err := proto.Unmarshal(r.encoded, e); err != nil { // it was encoded here
		return r.fails(fmt.Errorf("reading endpoint: %w", err))
	}
	t := newTarget(e)
	r.made.CompareAndSwap(nil, t) // whoever else made one has the same
	return t
}

// letGo forgets the target until it is asked for. Whoever has it may use it on.
func (r *route) letGo() {
	if !r.kept {
		r.made.Store(nil)
	}
}

// fails is a target that fails its attempts.
func (r *route) fails(err error) *target {
	return &target{batch: r.batch, schedule: defaultSchedule(), err: err}
}

// warm is told that a request of an endpoint has ended. It keeps the endpoint's
// target for the next one, and lets go of those that were used least of late. Of
// one that failed it is let go at once: it may be dead, and is tried rarely then.
func (q *queues) warm(e *endpoint) {
	switch {
	case e.route == nil, e.failures > 0:
		q.cool(e)
	case e.warm == nil:
		e.warm = q.warmed.PushBack(e)
	default:
		q.warmed.MoveToBack(e.warm)
	}
	for q.warmed.Len() > q.maxWarm {
		longest, _ := q.warmed.Front().Value.(*endpoint) // nothing else is ever put there
		q.cool(longest)
	}
}

// cool lets go of an endpoint's target.
func (q *queues) cool(e *endpoint) {
	if e.route != nil {
		e.route.letGo()
	}
	if e.warm != nil {
		q.warmed.Remove(e.warm)
		e.warm = nil
	}
}
