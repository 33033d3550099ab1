package alert

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// DefaultLimit is how many conditions a board follows that hold, or of
	// which an alert fires.
	DefaultLimit = 10_000
	// Calm is for how long a condition must not hold before its alert is
	// resolved: what comes and goes is one alert.
	Calm = time.Minute
	// keepResolved is for how long an alert that was resolved is remembered, and
	// maxResolved how many are.
	keepResolved = 24 * time.Hour
	maxResolved  = 1000
)

// Transition is what happened to an alert.
type Transition int

// What can happen to an alert.
const (
	Fires Transition = iota
	Repeats
	Resolves
	Forgotten
)

// String returns what happened in a word.
func (t Transition) String() string {
	return [...]string{"fires", "repeats", "resolves", "forgotten"}[t]
}

// Change is what has happened to an alert, and is to be made durable and told.
type Change struct {
	ID         string
	Tenant     string
	Transition Transition
	// Alert as it is now, without name and link. Whoever makes it durable may
	// fill in event and trace_id before. It is not changed after that.
	Alert *fanfarev1.Alert
	// Delivery is one that failed, as the history names it; empty: none did.
	Delivery string
	// Kept: it is durable already, and only to be told.
	Kept bool
	// Tell: those who are told are to be told; then Board.Told is to be called.
	Tell bool
	// Told: those who are told know what the alert's state is.
	Told bool

	key Key
}

// Board makes alerts of conditions. It is for one goroutine at a time.
type Board struct {
	limit    int
	entries  map[Key]*entry
	held     int // entries that are not resolved
	left     int // conditions that were left out since Left was asked
	resolved int
}

// entry is what a board knows of one key.
type entry struct {
	alert    *fanfarev1.Alert // as last given out; nil: it has never fired
	told     bool             // of the alert's state
	rule     Rule
	holds    bool
	since    time.Time // while it holds, or while it fires
	calm     time.Time // since when it does not hold
	stays    time.Time // not resolved before: see the package's comment
	gone     bool
	text     string
	evidence Evidence
}

func (e *entry) fires() bool { return e.alert.GetState() == fanfarev1.Alert_FIRING }

// over reports whether nothing of it is left but the memory.
func (e *entry) over() bool { return !e.holds && !e.fires() }

// NewBoard returns a board that knows of nothing. A limit of 0 is the default.
func NewBoard(limit int) *Board {
	return &Board{limit: cmp.Or(limit, DefaultLimit), entries: make(map[Key]*entry)}
}

// KeyOf returns what an alert of a tenant is about.
func KeyOf(tenant string, a *fanfarev1.Alert) Key {
	name := a.GetSubscription()
	return Key{
		Kind: Kind(a.GetKind()), Tenant: tenant,
		Subscription: name[strings.LastIndexByte(name, '/')+1:], Object: a.GetObject(),
	}
}

// ID returns the id of alerts about this: `alr_…`.
func (k Key) ID() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{string(k.Kind), k.Tenant, k.Subscription, k.Object}, "\x00")))
	return "alr_" + hex.EncodeToString(sum[:12])
}

// Restore takes an alert that another board has given out, and whether it was
// told. What fires is taken to hold until the board hears otherwise. The alert
// must not be changed after that.
func (b *Board) Restore(now time.Time, tenant string, a *fanfarev1.Alert, told bool) {
	key := KeyOf(tenant, a)
	e := &entry{alert: a, told: told, rule: Default(key.Kind), since: a.GetStartTime().AsTime(), calm: now}
	e.text, e.holds = a.GetSummary(), e.fires()
	e.evidence = Evidence{
		URL: a.GetUrl(), StatusCode: a.GetLastStatusCode(), ErrorClass: a.GetLastErrorClass(), Error: a.GetLastError(),
	}
	if d := definitionOf(key.Kind); d != nil && d.counted {
		e.stays = now.Add(d.rule.Period)
	}
	b.entries[key] = e
	if e.fires() {
		b.held++
	} else {
		b.resolved++
	}
}

// Take takes whether a condition holds now.
func (b *Board) Take(now time.Time, c Condition) {
	e := b.entries[c.Key]
	if e == nil {
		if !c.Holds {
			return
		}
		e = new(entry)
		b.entries[c.Key] = e
	} else if !e.over() {
		b.held--
	} else if e.alert != nil {
		b.resolved--
	}
	defer b.count(c.Key, e)
	if c.Holds && e.over() && b.held >= b.limit {
		b.left++
		return
	}
	e.rule, e.gone = c.Rule, c.Gone
	switch {
	case c.Holds:
		if e.over() {
			e.since = now
			if !c.Since.IsZero() && c.Since.Before(now) {
				e.since = c.Since
			}
		}
		e.holds, e.stays = true, time.Time{}
		e.text, e.evidence = c.Text, c.Evidence
	case e.holds:
		e.holds, e.calm = false, now
	}
}

// count keeps the counters true, and drops what there is nothing to remember of.
func (b *Board) count(key Key, e *entry) {
	switch {
	case !e.over():
		b.held++
	case e.alert != nil:
		b.resolved++
	default:
		delete(b.entries, key)
	}
}

// Keys returns what the board knows of, in no particular order.
func (b *Board) Keys() []Key {
	keys := make([]Key, 0, len(b.entries))
	for key := range b.entries {
		keys = append(keys, key)
	}
	return keys
}

// Knows reports whether the board knows of something.
func (b *Board) Knows(key Key) bool { return b.entries[key] != nil }

// Idle reports whether time alone changes nothing.
func (b *Board) Idle() bool { return len(b.entries) == 0 }

// Left returns how many conditions were left out since it was last asked, as
// there were more than the limit.
func (b *Board) Left() int {
	left := b.left
	b.left = 0
	return left
}

// Advance returns what has happened by now, in the order of the ids. It is to
// be made durable and told; what could not be told comes again.
func (b *Board) Advance(now time.Time) []Change {
	var changes []Change
	for key, e := range b.entries {
		if change, ok := e.advance(key, now); ok {
			change.ID = key.ID() // not before: most of the time nothing has happened
			changes = append(changes, change)
			if change.Transition == Resolves && !change.Kept {
				b.held--
				b.resolved++
			}
		}
	}
	changes = append(changes, b.forget(now)...)
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.ID, b.ID) })
	return changes
}

// advance returns what has happened to an entry, without an id.
func (e *entry) advance(key Key, now time.Time) (Change, bool) {
	muted := now.Before(e.rule.Mute)
	change := Change{Tenant: key.Tenant, Tell: !muted, key: key}
	switch {
	case e.holds && !e.fires():
		if now.Sub(e.since) < e.rule.For {
			return Change{}, false
		}
		e.told = false
		e.alert = e.render(key)
		change.Transition, change.Delivery = Fires, e.evidence.Delivery
	case e.fires() && !e.holds && !now.Before(e.stays) && (e.gone || now.Sub(e.calm) >= Calm):
		ended := proto.CloneOf(e.alert)
		ended.State, ended.EndTime, ended.NotifyTime = fanfarev1.Alert_RESOLVED, timestamppb.New(now), nil
		// Who was not told of the beginning need not hear of the end.
		change.Transition, change.Tell = Resolves, e.told && !muted
		e.alert, e.told = ended, !change.Tell
	case e.told || muted || e.alert == nil:
		if !e.fires() || muted || e.alert == nil || now.Sub(e.alert.GetNotifyTime().AsTime()) < e.rule.Repeat {
			return Change{}, false
		}
		change.Transition, change.Kept = Repeats, true
		if e.holds {
			again := e.render(key)
			again.Event, again.TraceId, again.NotifyTime = e.alert.GetEvent(), e.alert.GetTraceId(), e.alert.GetNotifyTime()
			e.alert, change.Delivery = again, e.evidence.Delivery
		}
	default: // it could not be told, or by another only
		change.Transition, change.Kept = Resolves, true
		if e.fires() {
			change.Transition = Fires
		}
	}
	change.Alert, change.Told = e.alert, e.told
	return change, true
}

// render makes the alert that fires.
func (e *entry) render(key Key) *fanfarev1.Alert {
	a := &fanfarev1.Alert{
		Kind: string(key.Kind), Severity: e.rule.Severity, State: fanfarev1.Alert_FIRING,
		Object: key.Object, Summary: e.text, StartTime: timestamppb.New(e.since),
		Url: e.evidence.URL, LastStatusCode: e.evidence.StatusCode, LastErrorClass: e.evidence.ErrorClass, LastError: e.evidence.Error,
	}
	if key.Subscription != "" {
		a.Subscription = "tenants/" + key.Tenant + "/subscriptions/" + key.Subscription
	}
	return a
}

// Told takes that a change was told, and returns what is to be made durable of
// that.
func (b *Board) Told(now time.Time, change Change) Change {
	e := b.entries[change.key]
	if e == nil || e.alert != change.Alert {
		return change // something else has happened meanwhile
	}
	told := proto.CloneOf(e.alert)
	told.NotifyTime = timestamppb.New(now)
	e.alert, e.told = told, true
	change.Alert, change.Kept, change.Tell, change.Told = told, false, false, true
	return change
}

// forget drops the memory of what was resolved long ago, or of what there is
// too much of.
func (b *Board) forget(now time.Time) []Change {
	type memory struct {
		key Key
		end time.Time
	}
	var old []memory
	for key, e := range b.entries {
		if e.over() && e.told && e.alert != nil {
			old = append(old, memory{key, e.alert.GetEndTime().AsTime()})
		}
	}
	slices.SortFunc(old, func(a, b memory) int { return a.end.Compare(b.end) })
	var changes []Change
	for i, m := range old {
		if len(old)-i <= maxResolved && now.Sub(m.end) < keepResolved {
			break
		}
		delete(b.entries, m.key)
		b.resolved--
		changes = append(changes, Change{ID: m.key.ID(), Tenant: m.key.Tenant, Transition: Forgotten, key: m.key})
	}
	return changes
}

// Show returns an alert as clients see it: with its name, and a link if there
// is something for it to begin with.
func Show(tenant, id string, a *fanfarev1.Alert, link string) *fanfarev1.Alert {
	shown := proto.CloneOf(a)
	shown.Name = "tenants/" + tenant + "/alerts/" + id
	if link != "" {
		shown.Link = strings.TrimSuffix(link, "/") + "/" + shown.GetName()
	}
	return shown
}
