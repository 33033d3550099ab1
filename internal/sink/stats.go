package sink

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Stats counts what a Sink got since it was made. Every request that has been
// dealt with is in exactly one of Accepted, Failed, BadSignatures, Refused and
// Abandoned, so that these add up to Received when none is under way.
//
// An id is that of the webhook-id header, and is known by it together with the
// path: two subscriptions that send the same event to two paths are no
// duplicates.
type Stats struct {
	Received      int64 `json:"received"`
	Accepted      int64 `json:"accepted"`      // answered 2xx
	Failed        int64 `json:"failed"`        // answered otherwise, as was asked for
	BadSignatures int64 `json:"badSignatures"` // answered 401
	Refused       int64 `json:"refused"`       // answered 4xx: too large, or broken off
	Abandoned     int64 `json:"abandoned"`     // not answered: the client went first, or the sink hangs

	// Distinct ids accepted, and acceptances of an id accepted before.
	Distinct   int64 `json:"distinct"`
	Duplicates int64 `json:"duplicates"`
	// WithoutID counts acceptances that had no id. They are in neither of
	// the two above.
	WithoutID int64 `json:"withoutId"`
	// OutOfOrder counts ids that were accepted for the first time after a
	// greater one on the same path, by bytes. Ids that Fanfare makes sort by
	// time; of ids that do not, it means nothing.
	OutOfOrder int64 `json:"outOfOrder"`
	// ForgottenIDs counts the ids that were dropped, the oldest first, to
	// stay within MaxIDs. If one of them comes again it counts as new: then
	// Distinct may be too high and Duplicates too low.
	ForgottenIDs int64 `json:"forgottenIds"`

	Bytes     int64     `json:"bytes"`              // of the bodies, as far as they were read
	FirstTime time.Time `json:"firstTime,omitzero"` // when the first request arrived
	LastTime  time.Time `json:"lastTime,omitzero"`  // when the last one did
}

// Write writes s to w as indented JSON and a line break.
func (s Stats) Write(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(s); err != nil {
		return fmt.Errorf("writing stats: %w", err)
	}
	return nil
}

// String returns the counts in one line, for people.
func (s Stats) String() string {
	return fmt.Sprintf("received %d, accepted %d, failed %d, bad signatures %d, abandoned %d, distinct %d, duplicates %d, out of order %d",
		s.Received, s.Accepted, s.Failed, s.BadSignatures, s.Abandoned, s.Distinct, s.Duplicates, s.OutOfOrder)
}

// Stats returns the counts as they are now.
func (s *Sink) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

func (s *Sink) countArrival(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Received++
	if s.counts.FirstTime.IsZero() {
		s.counts.FirstTime = at
	}
	if at.After(s.counts.LastTime) {
		s.counts.LastTime = at
	}
}

// count adds a request to the counts once its answer is known, and notes in it
// what only the counts tell.
func (s *Sink) count(request *Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Bytes += int64(len(request.Body))
	switch {
	case request.Status == 0:
		s.counts.Abandoned++
	case request.Verification == Unverified:
		s.counts.BadSignatures++
	case request.Problem != nil:
		s.counts.Refused++
	case request.Status < 200 || request.Status >= http.StatusMultipleChoices:
		s.counts.Failed++
	default:
		s.countAccepted(request)
	}
}

// countAccepted is called with s.mu held.
func (s *Sink) countAccepted(request *Request) {
	s.counts.Accepted++
	if request.ID == "" {
		s.counts.WithoutID++
		return
	}
	request.Duplicate, request.OutOfOrder = s.ids.add(request.Path, request.ID)
	if request.Duplicate {
		s.counts.Duplicates++
	} else {
		s.counts.Distinct++
	}
	if request.OutOfOrder {
		s.counts.OutOfOrder++
	}
	s.counts.ForgottenIDs = s.ids.forgotten
}
