package alert

import (
	"slices"
	"strings"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Notification is what is told at once: what has happened at one time to alerts
// that belong together.
type Notification struct {
	// Group is what they have in common: `tenants/acme`, or of the cluster the
	// kind of what it is about, as `partitions`.
	Group  string
	Alerts []*fanfarev1.Alert // with name and link
	// Repeated: all of them were told before, and fire still.
	Repeated bool
}

// Group puts changes that are to be told into notifications, by what they have
// in common, in order. link is what the alerts' links begin with; "": they have
// none.
func Group(changes []Change, link string) []Notification {
	type kind struct {
		group    string
		repeated bool
	}
	found := make(map[kind]*Notification)
	var order []kind
	for _, change := range changes {
		if !change.Tell {
			continue
		}
		of := kind{groupOf(change), change.Transition == Repeats}
		if found[of] == nil {
			found[of] = &Notification{Group: of.group, Repeated: of.repeated}
			order = append(order, of)
		}
		found[of].Alerts = append(found[of].Alerts, Show(change.Tenant, change.ID, change.Alert, link))
	}
	slices.SortFunc(order, func(a, b kind) int { return strings.Compare(a.group, b.group) })
	all := make([]Notification, len(order))
	for i, of := range order {
		all[i] = *found[of]
	}
	return all
}

func groupOf(change Change) string {
	if object, _, ok := strings.Cut(change.Alert.GetObject(), "/"); ok {
		return object
	}
	return "tenants/" + change.Tenant
}
