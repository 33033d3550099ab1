package serve

import (
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Limits of how events are sent. They are part of the API: see
// subscription_service.proto and tenant_service.proto.
const (
	minRate  = 0.001  // events a second
	maxRate  = 100000 // events a second
	maxBurst = 100000 // events

	maxBatchCount = 1000 // events
	minBatchBytes = 1 << 10
	maxBatchBytes = 4 << 20
	maxBatchWait  = time.Minute
)

// checkSending says what is wrong with what a subscription says of when its
// events are sent.
func checkSending(sub *fanfarev1.Subscription) error {
	switch ledger.Ordering(sub.GetOrdering()) {
	case "", ledger.Unordered, ledger.OrderedByKey, ledger.OrderedSubscription:
	default:
		return invalid("ordering", "is %q; expected none, key or subscription", sub.GetOrdering())
	}
	if err := checkRate("", sub); err != nil {
		return err
	}
	return checkBatch(sub)
}

// checkBatch says what is wrong with how events are sent together.
func checkBatch(sub *fanfarev1.Subscription) error {
	switch count, size := sub.GetBatchCount(), sub.GetBatchBytes(); {
	case count > maxBatchCount:
		return invalid("batch_count", "is %d; at most %d are allowed", count, maxBatchCount)
	case size != 0 && (size < minBatchBytes || size > maxBatchBytes):
		return invalid("batch_bytes", "is %d; %d to %d are allowed", size, minBatchBytes, maxBatchBytes)
	case count == 0 && size != 0:
		return invalid("batch_bytes", "is %d, but there is no batch_count", size)
	case count == 0 && sub.GetBatchWait() != nil:
		return invalid("batch_wait", "is %s, but there is no batch_count", sub.GetBatchWait().AsDuration())
	case count != 0 && sub.GetPayloadMode() == "cloudevents-binary":
		return invalid("batch_count", "is %d, but events cannot be batched with the payload_mode cloudevents-binary", count)
	}
	if sub.GetBatchWait() == nil {
		return nil
	}
	return checkDuration("batch_wait", sub.GetBatchWait(), 0, maxBatchWait)
}

// limited is what can have a rate.
type limited interface {
	GetRate() float64
	GetBurst() uint32
}

// checkRate says what is wrong with a rate; the fields' names have the prefix.
func checkRate(prefix string, l limited) error {
	switch rate, burst := l.GetRate(), l.GetBurst(); {
	case rate != 0 && !(rate >= minRate && rate <= maxRate): // also what is not a number
		return invalid(prefix+"rate", "is %v; %v to %v events a second are allowed, or 0 for no limit", rate, minRate, maxRate)
	case burst > maxBurst:
		return invalid(prefix+"burst", "is %d; at most %d are allowed", burst, maxBurst)
	case burst != 0 && rate == 0:
		return invalid(prefix+"burst", "is %d, but there is no rate", burst)
	}
	return nil
}

// updateSending takes over what of that is to be changed.
func updateSending(sub, from *fanfarev1.Subscription, paths map[string]bool) {
	if paths["ordering"] {
		sub.Ordering = from.GetOrdering()
	}
	if paths["rate"] {
		sub.Rate = from.GetRate()
	}
	if paths["burst"] {
		sub.Burst = from.GetBurst()
	}
	if paths["batch_count"] {
		sub.BatchCount = from.GetBatchCount()
	}
	if paths["batch_bytes"] {
		sub.BatchBytes = from.GetBatchBytes()
	}
	if paths["batch_wait"] {
		sub.BatchWait = from.GetBatchWait()
	}
}
