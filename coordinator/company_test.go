package coordinator

import (
	"slices"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare/internal/cluster"
)

func TestCompany(t *testing.T) {
	c, now := newCompany(), time.Unix(1000, 0)
	should := map[cluster.MemberID]bool{"a": true, "b": true, "c": true}
	look := func(after time.Duration, lonely bool, absent []cluster.MemberID, attached ...string) {
		t.Helper()
		now = now.Add(after)
		there := make(map[string]bool)
		for _, id := range attached {
			there[id] = true
		}
		c.look(should, there, now)
		got := c.absent()
		slices.Sort(got)
		if c.lonely() != lonely || !slices.Equal(got, absent) {
			t.Errorf("with %v: lonely %v, absent %v; want %v, %v", attached, c.lonely(), got, lonely, absent)
		}
	}
	look(0, false, nil)
	look(lonelyAfter-1, false, nil, "a")
	look(1, true, []cluster.MemberID{"b", "c"}, "a")
	look(0, false, []cluster.MemberID{"c"}, "a", "b") // b is here again
	look(lonelyAfter, false, []cluster.MemberID{"c"}, "a")
	look(lonelyAfter, true, []cluster.MemberID{"b", "c"}, "a")
	c.accused["c"] = now
	look(0, true, []cluster.MemberID{"b"}, "a") // of c the cluster knows
	delete(should, "c")
	look(0, false, []cluster.MemberID{"b"}, "a") // one of two
	delete(should, "b")
	look(0, false, nil, "a")
	delete(should, "a")
	look(lonelyAfter, false, nil) // nobody should be here
}
