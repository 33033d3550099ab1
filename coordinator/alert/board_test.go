package alert_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// table is a board, and what it has given out.
type table struct {
	*testing.T
	board *alert.Board
	now   time.Time
}

func newTable(t *testing.T, limit int) *table {
	return &table{T: t, board: alert.NewBoard(limit), now: start}
}

// condition is that an endpoint fails, or not, since a time before now.
func (t *table) condition(id string, holds bool, ago time.Duration) alert.Condition {
	return alert.Condition{
		Key:   alert.Key{Kind: alert.EndpointFailing, Tenant: "acme", Subscription: id},
		Rule:  alert.Default(alert.EndpointFailing),
		Holds: holds, Since: t.now.Add(-ago), Text: "it fails",
		Evidence: alert.Evidence{URL: "https://example.com/", StatusCode: 503, Delivery: "dlv_1"},
	}
}

// pass lets time pass, and returns what happens at its end, told or not.
func (t *table) pass(d time.Duration) string {
	t.now = t.now.Add(d)
	var all []string
	for _, change := range t.board.Advance(t.now) {
		line := change.Transition.String()
		if change.Tell {
			line += " told"
			t.board.Told(t.now, change)
		}
		all = append(all, line)
	}
	return strings.Join(all, ", ")
}

func (t *table) want(d time.Duration, want string) {
	t.Helper()
	if got := t.pass(d); got != want {
		t.Errorf("after %v at %v: %q, want %q", d, t.now.Sub(start), got, want)
	}
}

func TestFiresOnceRepeatsAndResolves(tt *testing.T) {
	t := newTable(tt, 0)
	t.board.Take(t.now, t.condition("sub_1", true, 0))
	t.want(4*time.Minute, "")
	t.board.Take(t.now, t.condition("sub_1", true, 4*time.Minute))
	t.want(time.Minute, "fires told")
	t.want(time.Minute, "")
	t.board.Take(t.now, t.condition("sub_1", true, 6*time.Minute))
	t.want(23*time.Hour, "")
	t.want(time.Hour, "repeats told")
	t.want(time.Minute, "")
	t.board.Take(t.now, t.condition("sub_1", false, 0))
	t.want(alert.Calm-time.Second, "")
	t.want(time.Second, "resolves told")
	t.want(23*time.Hour, "")
	t.want(time.Hour, "forgotten")
	if !t.board.Idle() {
		t.Error("something is left on the board")
	}
}

// What began before it was noticed has been so for as long: a new leader does
// not wait again.
func TestForCountsFromTheBeginning(tt *testing.T) {
	t := newTable(tt, 0)
	t.board.Take(t.now, t.condition("sub_1", true, time.Hour))
	t.want(0, "fires told")
}

func TestWhatComesAndGoesIsOneAlert(tt *testing.T) {
	t := newTable(tt, 0)
	t.board.Take(t.now, t.condition("sub_1", true, time.Hour))
	t.want(0, "fires told")
	for range 10 {
		t.board.Take(t.now, t.condition("sub_1", false, 0))
		t.want(30*time.Second, "")
		t.board.Take(t.now, t.condition("sub_1", true, 0))
		t.want(30*time.Second, "")
	}
	t.board.Take(t.now, t.condition("sub_1", false, 0))
	t.want(alert.Calm, "resolves told")
}

func TestWhatIsShorterThanForFiresNothing(tt *testing.T) {
	t := newTable(tt, 0)
	t.board.Take(t.now, t.condition("sub_1", true, 0))
	t.want(4*time.Minute, "")
	t.board.Take(t.now, t.condition("sub_1", false, 0))
	t.want(time.Hour, "")
	if !t.board.Idle() {
		t.Error("something is left on the board")
	}
}

func TestGoneIsResolvedAtOnce(tt *testing.T) {
	t := newTable(tt, 0)
	t.board.Take(t.now, t.condition("sub_1", true, time.Hour))
	t.want(0, "fires told")
	gone := t.condition("sub_1", false, 0)
	gone.Gone = true
	t.board.Take(t.now, gone)
	t.want(0, "resolves told")
}

// While muted, alerts fire, and nobody is told; of what is over by the end
// nobody hears anything.
func TestMuted(tt *testing.T) {
	t := newTable(tt, 0)
	muted := func(id string, holds bool) alert.Condition {
		c := t.condition(id, holds, time.Hour)
		c.Rule.Mute = start.Add(time.Hour)
		return c
	}
	t.board.Take(t.now, muted("sub_1", true))
	t.board.Take(t.now, muted("sub_2", true))
	t.want(0, "fires, fires")
	t.want(time.Minute, "")
	t.board.Take(t.now, muted("sub_2", false))
	t.want(alert.Calm, "resolves")
	t.want(time.Hour, "fires told")
}

// Another board goes on with what one has given out: it fires nothing again,
// tells what was not told, and resolves what is over.
func TestRestore(tt *testing.T) {
	t := newTable(tt, 0)
	t.board.Take(t.now, t.condition("sub_told", true, time.Hour))
	t.board.Take(t.now, t.condition("sub_untold", true, time.Hour))
	kept := make(map[string]*fanfarev1.Alert)
	told := make(map[string]bool)
	for _, change := range t.board.Advance(t.now) {
		if strings.HasSuffix(change.Alert.GetSubscription(), "sub_told") {
			change = t.board.Told(t.now, change)
		}
		kept[change.ID], told[change.ID] = change.Alert, change.Told
	}
	t.board = alert.NewBoard(0)
	t.now = t.now.Add(time.Minute)
	for id, a := range kept {
		t.board.Restore(t.now, "acme", a, told[id])
	}
	t.board.Take(t.now, t.condition("sub_told", true, time.Hour))
	t.board.Take(t.now, t.condition("sub_untold", true, time.Hour))
	t.want(0, "fires told") // the one that was not told
	t.want(time.Minute, "")
	t.board.Take(t.now, t.condition("sub_told", false, 0))
	t.want(alert.Calm, "resolves told")
	t.want(22*time.Hour, "")
}

// What rests on counts that begin anew is not resolved because of that.
func TestRestoredCountsHaveTheirTime(tt *testing.T) {
	t := newTable(tt, 0)
	dead := alert.Condition{
		Key:  alert.Key{Kind: alert.DeliveryDead, Tenant: "acme", Subscription: "sub_1"},
		Rule: alert.Default(alert.DeliveryDead), Holds: true,
	}
	t.board.Take(t.now, dead)
	change := t.board.Told(t.now, t.board.Advance(t.now)[0])
	t.board = alert.NewBoard(0)
	t.board.Restore(t.now, "acme", change.Alert, true)
	dead.Holds = false
	t.board.Take(t.now, dead)
	t.want(59*time.Minute, "")
	t.want(time.Minute, "resolves told")
}

func TestAtMostSoMany(tt *testing.T) {
	t := newTable(tt, 3)
	for i := range 5 {
		t.board.Take(t.now, t.condition(fmt.Sprintf("sub_%d", i), true, time.Hour))
	}
	t.want(0, "fires told, fires told, fires told")
	if left := t.board.Left(); left != 2 {
		t.Errorf("%d conditions were left out, want 2", left)
	}
	t.board.Take(t.now, t.condition("sub_0", false, 0))
	t.want(alert.Calm, "resolves told")
	t.board.Take(t.now, t.condition("sub_4", true, time.Hour))
	t.want(0, "fires told")
}

func TestRendered(tt *testing.T) {
	t := newTable(tt, 0)
	t.board.Take(t.now, t.condition("sub_1", true, time.Hour))
	change := t.board.Advance(t.now)[0]
	a := alert.Show(change.Tenant, change.ID, change.Alert, "https://fanfare.example.com/v1/")
	if want := "tenants/acme/alerts/" + change.ID; a.GetName() != want || a.GetLink() != "https://fanfare.example.com/v1/"+want {
		t.Errorf("name %q and link %q, want %q", a.GetName(), a.GetLink(), want)
	}
	if a.GetSubscription() != "tenants/acme/subscriptions/sub_1" || a.GetSummary() != "it fails" || a.GetSeverity() != alert.Warning ||
		a.GetLastStatusCode() != 503 || a.GetUrl() != "https://example.com/" || !a.GetStartTime().AsTime().Equal(start.Add(-time.Hour)) ||
		change.Delivery != "dlv_1" {
		t.Errorf("got %v with delivery %q", a, change.Delivery)
	}
	if again := alert.KeyOf("acme", a); again.ID() != change.ID {
		t.Errorf("the alert is about %v, which is another key", again)
	}
}

func TestGroups(tt *testing.T) {
	t := newTable(tt, 0)
	t.board.Take(t.now, t.condition("sub_1", true, time.Hour))
	t.board.Take(t.now, t.condition("sub_2", true, time.Hour))
	for _, object := range []string{"partitions/1", "partitions/2", "members/a"} {
		t.board.Take(t.now, alert.Condition{
			Key:  alert.Key{Kind: alert.PublishRefused, Tenant: "fanfare-system", Object: object},
			Rule: alert.Default(alert.PublishRefused), Holds: true,
		})
	}
	var got []string
	for _, n := range alert.Group(t.board.Advance(t.now), "") {
		got = append(got, fmt.Sprintf("%s: %d", n.Group, len(n.Alerts)))
	}
	if want := "members: 1, partitions: 2, tenants/acme: 2"; strings.Join(got, ", ") != want {
		t.Errorf("groups are %v, want %s", got, want)
	}
}
