package serve

import (
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// checkSending says what is wrong with what a subscription says of when its
// events are sent.
func checkSending(sub *fanfarev1.Subscription) error {
	switch ledger.Ordering(sub.GetOrdering()) {
	case "", ledger.Unordered, ledger.OrderedByKey, ledger.OrderedSubscription:
	default:
		return invalid("ordering", "is %q; expected none, key or subscription", sub.GetOrdering())
	}
	return nil
}

// updateSending takes over what of that is to be changed.
func updateSending(sub, from *fanfarev1.Subscription, paths map[string]bool) {
	if paths["ordering"] {
		sub.Ordering = from.GetOrdering()
	}
}
