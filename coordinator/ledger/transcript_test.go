package ledger

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// TestTranscripts runs the conversations in testdata/transcripts: records in,
// changes and state out. After a change of behaviour, -rewrite writes what
// there is now, to be reviewed as a diff.
//
// The commands:
//
//	record time=MS      folds a record, an item a line, and prints the changes:
//	  fence [healthy=N] [failing=N] [partition=N] [window-ms=N] [window-count=N]
//	        [breaker=N] [probe=MS] [probe-last=MS] [disable=MS]
//	  tenant ID | no-tenant ID
//	  put NUMBER TENANT ID [PATTERN…] [url=URL] | delete NUMBER
//	  pause NUMBER | resume NUMBER | resume-from-now NUMBER
//	  expire SEQUENCE | purge SEQUENCE
//	  delivered|retry|dead|returned NUMBER POSITION [attempt=N] [next=MS] [status=N]
//	  admit NUMBER NEXT [POSITION…]
//	  readmit NUMBER POSITION… [attempts=N]
//	  event TENANT ID TYPE
//	state               prints the whole state
//	wanted NUMBER       prints what a subscription that is behind wants of the
//	                    log from its cursor on
//	seen TENANT ID…     prints whether event ids are in the idempotency window
//	restore             goes on with the ledger restored from a snapshot
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		transcript := &transcript{book: newBook()}
		datadriven.RunTest(t, path, transcript.run)
	})
}

type transcript struct{ book *book }

func (c *transcript) run(t *testing.T, data *datadriven.TestData) string {
	switch data.Cmd {
	case "record":
		record := &linkv1.Record{}
		data.ScanArgs(t, "time", &record.TimeUnixMs)
		return c.record(t, record, data)
	case "state":
		return describe(c.book.ledger)
	case "wanted":
		return c.wanted(t, parseItem(t, data.Cmd+" "+data.CmdArgs[0].Key).number())
	case "seen":
		return c.seen(data)
	case "restore":
		before := stateHash(t, c.book.ledger)
		c.book.ledger = restored(t, snapshotOf(t, c.book.ledger))
		return fmt.Sprintf("same state: %t\n", stateHash(t, c.book.ledger) == before)
	default:
		data.Fatalf(t, "unknown command %s", data.Cmd)
		return ""
	}
}

// wanted reads the log as a leader does that catches a subscription up.
func (c *transcript) wanted(t *testing.T, number Number) string {
	var out strings.Builder
	s := c.book.ledger.Subscription(number)
	cursor, behind := s.Behind()
	if !behind {
		return "is not behind\n"
	}
	for i, data := range c.book.log[cursor.Sequence-1:] {
		record := new(linkv1.Record)
		if err := proto.Unmarshal(data, record); err != nil {
			t.Fatal(err)
		}
		for index, e := range record.GetEvents() {
			at := Position{cursor.Sequence + uint64(i), uint32(index)}
			if at.Compare(cursor) >= 0 && TenantID(e.GetTenant()) == s.Tenant &&
				s.Interest().Wants(at.Sequence, e.GetType()) {
				fmt.Fprintf(&out, "%v %s\n", at, e.GetType())
			}
		}
	}
	return out.String()
}

func (c *transcript) seen(data *datadriven.TestData) string {
	var out strings.Builder
	tenant := data.CmdArgs[0].Key
	for _, id := range data.CmdArgs[1:] {
		fmt.Fprintf(&out, "%s: %t\n", id.Key, c.book.ledger.Seen(TenantID(tenant), id.Key))
	}
	return out.String()
}

func (c *transcript) record(t *testing.T, record *linkv1.Record, data *datadriven.TestData) string {
	var outcomes []Reported
	for line := range strings.Lines(data.Input) {
		item := parseItem(t, line)
		switch item.verb {
		case "fence":
			record.Fence = fence(item.limits())
		case "tenant":
			record.Tenants = append(record.Tenants, putTenant(item.words[0]))
		case "no-tenant":
			record.Tenants = append(record.Tenants, &linkv1.TenantChange{Id: item.words[0]})
		case "put":
			change := put(item.number(), item.words[1], item.words[2], item.words[3:]...)
			change.Put.Subscription.Url = item.pairs["url"]
			record.Subscriptions = append(record.Subscriptions, change)
		case "delete":
			record.Subscriptions = append(record.Subscriptions, remove(item.number()))
		case "pause":
			record.Controls = append(record.Controls, control(item.number(), linkv1.Control_PAUSE))
		case "resume":
			record.Controls = append(record.Controls, control(item.number(), linkv1.Control_RESUME))
		case "resume-from-now":
			record.Controls = append(record.Controls, control(item.number(), linkv1.Control_RESUME_FROM_NOW))
		case "expire":
			record.ExpireBefore = item.parse(item.words[0])
		case "purge":
			record.PurgeBefore = item.parse(item.words[0])
		case "readmit":
			record.Readmits = append(record.Readmits, item.readmit())
		case "delivered", "retry", "dead", "returned":
			outcomes = append(outcomes, item.outcome())
		case "admit":
			record.Admits = append(record.Admits, item.admit())
		case "event":
			record.Events = append(record.Events, event(item.words[0], item.words[1], item.words[2]))
		default:
			data.Fatalf(t, "unknown item %q", line)
		}
	}
	record.Outcomes = EncodeOutcomes(record.GetTimeUnixMs(), outcomes)
	result, err := c.book.append(record)
	if err != nil {
		return err.Error() + "\n"
	}
	return fmt.Sprintf("record %d\n%s", c.book.ledger.Sequence(), describeResult(result))
}

// item is a line of a record: a verb, words, and key=value pairs.
type item struct {
	t     *testing.T
	verb  string
	words []string
	pairs map[string]string
}

func parseItem(t *testing.T, line string) item {
	words := strings.Fields(line)
	parsed := item{t: t, verb: words[0], pairs: map[string]string{}}
	for _, word := range words[1:] {
		if key, value, ok := strings.Cut(word, "="); ok {
			parsed.pairs[key] = value
		} else {
			parsed.words = append(parsed.words, word)
		}
	}
	return parsed
}

func (i item) parse(word string) uint64 {
	i.t.Helper()
	n, err := strconv.ParseUint(word, 10, 64)
	if err != nil {
		i.t.Fatalf("%s: %v", i.verb, err)
	}
	return n
}

// pair returns the value of a pair, or 0.
func (i item) pair(key string) uint64 {
	i.t.Helper()
	if value, ok := i.pairs[key]; ok {
		return i.parse(value)
	}
	return 0
}

// number returns the subscription that the item begins with.
func (i item) number() Number { i.t.Helper(); return Number(i.parse(i.words[0])) }

func (i item) position(at int) Position {
	i.t.Helper()
	sequence, index, _ := strings.Cut(i.words[at], "/")
	return Position{i.parse(sequence), uint32(i.parse(index))}
}

func (i item) limits() *linkv1.Limits {
	return &linkv1.Limits{
		OutstandingHealthy:   uint32(i.pair("healthy")),
		OutstandingFailing:   uint32(i.pair("failing")),
		OutstandingPartition: uint32(i.pair("partition")),
		IdempotencyMs:        int64(i.pair("window-ms")),
		IdempotencyCount:     uint32(i.pair("window-count")),
		BreakerFailures:      uint32(i.pair("breaker")),
		ProbeFirstMs:         int64(i.pair("probe")),
		ProbeLastMs:          int64(i.pair("probe-last")),
		DisableAfterMs:       int64(i.pair("disable")),
	}
}

func (i item) outcome() Reported {
	kind := map[string]linkv1.Outcome_Kind{
		"delivered": linkv1.Outcome_DELIVERED, "retry": linkv1.Outcome_RETRY,
		"dead": linkv1.Outcome_DEAD, "returned": linkv1.Outcome_RETURNED,
	}[i.verb]
	r := outcome(kind, Delivery{i.number(), i.position(1)}, uint32(i.pair("attempt")))
	r.Outcome.NextTimeUnixMs = int64(i.pair("next"))
	r.Outcome.StatusCode = uint32(i.pair("status"))
	return r
}

func (i item) admit() *linkv1.Admit {
	var positions []Position
	for at := range i.words[2:] {
		positions = append(positions, i.position(2+at))
	}
	return admit(i.number(), i.position(1), positions...)
}

func (i item) readmit() *linkv1.Readmit {
	var positions []Position
	for at := range i.words[1:] {
		positions = append(positions, i.position(1+at))
	}
	return readmit(i.number(), uint32(i.pair("attempts")), positions...)
}

// describeResult prints what a record changed, a change a line.
func describeResult(result Result) string {
	var out strings.Builder
	for _, c := range result.Subscriptions {
		if c.Current == nil {
			fmt.Fprintf(&out, "subscription %d deleted\n", c.Number)
		} else {
			fmt.Fprintf(&out, "subscription %d put: %s %s %v\n",
				c.Number, c.Current.Tenant, c.Current.ID(), c.Current.patterns())
		}
	}
	for _, c := range result.Deliveries {
		fmt.Fprintf(&out, "%s: subscription %d, event %v, attempts %d, since %d",
			c.Kind.describe(), c.Subscription, c.Position, c.Attempts, c.Since)
		if c.Charged < c.Attempts && c.Kind != Delivered {
			fmt.Fprintf(&out, ", charged %d", c.Charged)
		}
		if c.Next != 0 {
			fmt.Fprintf(&out, ", due %d", c.Next)
		}
		out.WriteByte('\n')
	}
	for _, r := range result.Expired {
		fmt.Fprintf(&out, "expired: subscription %d, from %v until %v\n", r.Subscription, r.From, r.Until)
	}
	for _, s := range result.Paced {
		fmt.Fprintf(&out, "paced: subscription %d, %s\n", s.Number, s.Pace().describe())
	}
	return out.String()
}

func (p Pace) describe() string {
	switch {
	case p.Stopped:
		return "stopped"
	case p.Probing && p.Newest:
		return fmt.Sprintf("the newest at %d", p.Probe)
	case p.Probing:
		return fmt.Sprintf("the oldest at %d", p.Probe)
	}
	return "all of it"
}

func (k ChangeKind) describe() string {
	switch k {
	case Owed:
		return "owed"
	case Retried:
		return "retried"
	case Rescheduled:
		return "rescheduled"
	case Delivered:
		return "delivered"
	case Died:
		return "died"
	case Expired:
		return "expired"
	case Cancelled:
		return "cancelled"
	}
	return fmt.Sprintf("ChangeKind(%d)", int(k))
}

// describe prints a ledger's state as its readers see it.
func describe(l *Ledger) string {
	var out strings.Builder
	fmt.Fprintf(&out, "sequence %d, epoch %d, time %d, next number %d\n", l.Sequence(), l.Epoch(), l.Time(), l.NextNumber())
	fmt.Fprintf(&out, "outstanding %d, oldest since %d, behind %d, floor %d\n",
		l.Outstanding(), l.OldestSince(), l.BehindCount(), l.Floor())
	if l.KeptFrom() > 0 {
		fmt.Fprintf(&out, "kept from %d\n", l.KeptFrom())
	}
	for _, id := range l.Tenants() {
		fmt.Fprintf(&out, "tenant %s: %s\n", id, l.Tenant(id).GetDisplayName())
	}
	for _, s := range l.Subscriptions() {
		fmt.Fprintf(&out, "subscription %d: %s %s %v\n", s.Number, s.Tenant, s.ID(), s.patterns())
		if cursor, behind := s.Behind(); behind {
			fmt.Fprintf(&out, "  behind from %v\n", cursor)
		}
		for _, e := range s.eras {
			fmt.Fprintf(&out, "  before record %d: %v\n", e.until, e.patterns)
		}
		s.describeHealth(&out)
		for o := range s.Outstanding() {
			fmt.Fprintf(&out, "  %v attempts %d", o.Position, o.Attempts)
			if o.Charged < o.Attempts {
				fmt.Fprintf(&out, ", charged %d,", o.Charged)
			}
			fmt.Fprintf(&out, " due %d\n", o.Next.UnixMilli())
		}
	}
	for _, id := range l.Replays() {
		fmt.Fprintf(&out, "replay %s: %s\n", id, l.Replay(id).GetReplay().GetState())
	}
	for s, room := range l.Laggards() {
		fmt.Fprintf(&out, "laggard %d: room for %d\n", s.Number, room)
	}
	return out.String()
}

func (s *Subscription) describeHealth(out *strings.Builder) {
	health := s.Health()
	if health.Mode != Active {
		fmt.Fprintf(out, "  stopped since %d: %s\n", health.ModeSince.UnixMilli(), health.ModeReason)
	}
	if health.Failures > 0 {
		fmt.Fprintf(out, "  failures %d since %d, failing %t\n", health.Failures, health.Since.UnixMilli(), s.Failing())
	}
	if health.Open {
		fmt.Fprintf(out, "  breaker open, next probe %d\n", health.NextProbe.UnixMilli())
	}
}
