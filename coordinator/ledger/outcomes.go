package ledger

import (
	"fmt"
	"iter"
	"slices"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// Reported is an outcome with the worker that reported it.
type Reported struct {
	Worker  string
	Outcome *linkv1.Outcome
}

// EncodeOutcomes puts outcomes into the columns of a record that has this
// time, in unix ms.
func EncodeOutcomes(time int64, reported []Reported) *linkv1.Outcomes {
	if len(reported) == 0 {
		return nil
	}
	c := columns(len(reported))
	sequence, text := uint64(0), ""
	for i, r := range reported {
		o := r.Outcome
		c.Subscriptions = append(c.Subscriptions, o.GetSubscription())
		c.SequenceDeltas = append(c.SequenceDeltas, int64(o.GetSequence()-sequence)) //nolint:gosec // wraps both ways
		sequence = o.GetSequence()
		c.Indexes = append(c.Indexes, o.GetIndex())
		c.Kinds = append(c.Kinds, uint32(o.GetKind())) //nolint:gosec // a small enum
		c.Attempts = append(c.Attempts, o.GetAttempt())
		c.AgesMs = append(c.AgesMs, time-o.GetStartTimeUnixMs())
		c.LatenciesUs = append(c.LatenciesUs, o.GetLatencyUs())
		c.StatusCodes = append(c.StatusCodes, o.GetStatusCode())
		c.Workers = append(c.Workers, workerIndex(c, r.Worker))
		if detail := detailOf(i, time, o); detail != nil {
			if detail.GetError() == text {
				detail.Error = text // one copy for many endpoints of which the same is said
			}
			text = detail.GetError()
			c.Details = append(c.Details, detail)
		}
	}
	return c
}

// columns has room for so many outcomes.
func columns(n int) *linkv1.Outcomes {
	return &linkv1.Outcomes{
		Subscriptions: make([]uint64, 0, n), SequenceDeltas: make([]int64, 0, n), Indexes: make([]uint32, 0, n),
		Kinds: make([]uint32, 0, n), Attempts: make([]uint32, 0, n), AgesMs: make([]int64, 0, n),
		LatenciesUs: make([]uint64, 0, n), StatusCodes: make([]uint32, 0, n), Workers: make([]uint32, 0, n),
	}
}

func workerIndex(c *linkv1.Outcomes, worker string) uint32 {
	i := slices.Index(c.GetWorkerNames(), worker)
	if i < 0 {
		i = len(c.GetWorkerNames())
		c.WorkerNames = append(c.WorkerNames, worker)
	}
	return uint32(i) //nolint:gosec // a few workers
}

func detailOf(i int, time int64, o *linkv1.Outcome) *linkv1.OutcomeDetail {
	if o.GetKind() == linkv1.Outcome_DELIVERED && len(o.GetResponseBody()) == 0 {
		return nil
	}
	detail := &linkv1.OutcomeDetail{
		Outcome:      uint32(i), //nolint:gosec // a record holds few outcomes
		ErrorClass:   o.GetErrorClass(),
		Error:        o.GetError(),
		ResponseBody: o.GetResponseBody(),
	}
	if o.GetHoldUntilUnixMs() != 0 {
		detail.HoldDelayMs = o.GetHoldUntilUnixMs() - time
	}
	if o.GetKind() == linkv1.Outcome_RETRY {
		detail.NextDelayMs = o.GetNextTimeUnixMs() - time
	}
	return detail
}

// DecodeOutcomes returns the outcomes of a record that has this time, in unix
// ms. The columns must have passed the fold's check.
func DecodeOutcomes(time int64, c *linkv1.Outcomes) iter.Seq[Reported] {
	return func(yield func(Reported) bool) {
		sequence, details := uint64(0), c.GetDetails()
		for i, subscription := range c.GetSubscriptions() {
			sequence += uint64(c.GetSequenceDeltas()[i]) //nolint:gosec // wraps both ways
			o := &linkv1.Outcome{
				Kind:            linkv1.Outcome_Kind(c.GetKinds()[i]), //nolint:gosec // checked
				Subscription:    subscription,
				Sequence:        sequence,
				Index:           c.GetIndexes()[i],
				Attempt:         c.GetAttempts()[i],
				StartTimeUnixMs: time - c.GetAgesMs()[i],
				LatencyUs:       c.GetLatenciesUs()[i],
				StatusCode:      c.GetStatusCodes()[i],
			}
			if len(details) > 0 && int(details[0].GetOutcome()) == i {
				o.ErrorClass, o.Error = details[0].GetErrorClass(), details[0].GetError()
				o.ResponseBody = details[0].GetResponseBody()
				if details[0].GetHoldDelayMs() != 0 {
					o.HoldUntilUnixMs = time + details[0].GetHoldDelayMs()
				}
				if o.GetKind() == linkv1.Outcome_RETRY {
					o.NextTimeUnixMs = time + details[0].GetNextDelayMs()
				}
				details = details[1:]
			}
			if !yield(Reported{c.GetWorkerNames()[c.GetWorkers()[i]], o}) {
				return
			}
		}
	}
}

// checkOutcomes refuses columns that do not fit together.
func checkOutcomes(c *linkv1.Outcomes) error {
	want := len(c.GetSubscriptions())
	for _, have := range []int{
		len(c.GetSequenceDeltas()), len(c.GetIndexes()), len(c.GetKinds()), len(c.GetAttempts()),
		len(c.GetAgesMs()), len(c.GetLatenciesUs()), len(c.GetStatusCodes()), len(c.GetWorkers()),
	} {
		if have != want {
			return fmt.Errorf("%w: uneven columns of outcomes: %d and %d", ErrInvalid, want, have)
		}
	}
	for _, worker := range c.GetWorkers() {
		if int(worker) >= len(c.GetWorkerNames()) {
			return fmt.Errorf("%w: outcome of unnamed worker %d", ErrInvalid, worker)
		}
	}
	last := -1
	for _, detail := range c.GetDetails() {
		if int(detail.GetOutcome()) <= last || int(detail.GetOutcome()) >= want {
			return fmt.Errorf("%w: details of outcomes out of order", ErrInvalid)
		}
		last = int(detail.GetOutcome())
	}
	return nil
}
