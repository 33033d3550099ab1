package dispatch

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// TestTranscripts runs the conversations in testdata/transcripts: what the
// machine is told, and what it says. After a change of behaviour, -rewrite
// writes what there is now, to be reviewed as a diff.
//
// The commands:
//
//	new SLOTS       begins with an empty machine
//	tell            takes inputs, one a line, and prints what they answer:
//	  put NUMBER…                       | delete NUMBER
//	  owe DELIVERY… [attempts=N] [due=MS] [lane=N]  | end DELIVERY…
//	  succeeded NUMBER                  | failed NUMBER
//	  pace NUMBER all|stopped|oldest MS|newest MS  | hasten NUMBER MS
//	  attach SESSION WORKER/INCARNATION [count=N] [bytes=N]
//	  claim SESSION SLOT EPOCH [DELIVERY…] | release SESSION SLOT
//	  keep SESSION DELIVERY…
//	  detach SESSION                    | return SESSION DELIVERY…
//	  next MS [most=N] [bytes=N]        prints the sends, each charged so much
//	  drain MS [bytes=N]                next until there is nothing
//	  wake
//	state           prints the whole state
//
// A delivery is SUBSCRIPTION:SEQUENCE/INDEX; …/INDEX+N stands for N of them.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		transcript := new(transcript)
		datadriven.RunTest(t, path, transcript.run)
	})
}

type transcript struct{ d *Dispatch }

func (c *transcript) run(t *testing.T, data *datadriven.TestData) string {
	switch data.Cmd {
	case "new":
		c.d = New(int(parseNumber(t, data.CmdArgs[0].Key)))
		return ""
	case "tell":
		var out strings.Builder
		for line := range strings.Lines(data.Input) {
			out.WriteString(c.tell(parseInput(t, line)))
		}
		return out.String()
	case "state":
		return describe(c.d)
	default:
		data.Fatalf(t, "unknown command %s", data.Cmd)
		return ""
	}
}

// tell gives the machine one input and returns what there is to say of it.
func (c *transcript) tell(in *input) string {
	switch in.verb {
	case "put":
		for in.more() {
			c.d.Put(ledger.Number(in.number()))
		}
	case "delete":
		c.d.Delete(ledger.Number(in.number()))
	case "owe":
		for _, delivery := range in.deliveries() {
			c.d.OweInLane(delivery, ledger.Lane(in.option("lane", 0)), uint32(in.option("attempts", 0)), in.option("due", 0))
		}
	case "end":
		for _, delivery := range in.deliveries() {
			c.d.End(delivery)
		}
	case "succeeded":
		c.d.Succeeded(ledger.Number(in.number()))
	case "failed":
		c.d.Failed(ledger.Number(in.number()))
	case "pace":
		c.pace(in)
	case "hasten":
		number := ledger.Number(in.number())
		c.d.Hasten(number, in.number())
	case "next":
		return c.next(in)
	case "drain":
		return c.drain(in)
	case "wake":
		at, ok := c.d.Wake()
		if !ok {
			return "wakes only by an input\n"
		}
		return fmt.Sprintf("wakes at %d\n", at)
	default:
		return c.session(in)
	}
	return ""
}

func (c *transcript) pace(in *input) {
	number, pace := ledger.Number(in.number()), ledger.Pace{}
	for in.more() {
		switch word := in.word(); word {
		case "all":
		case "stopped":
			pace.Stopped = true
		case "oldest", "newest":
			pace.Probing, pace.Newest, pace.Probe = true, word == "newest", in.number()
		default:
			in.t.Fatalf("unknown pace %s", word)
		}
	}
	c.d.SetPace(number, pace)
}

// session is tell for what sessions do.
func (c *transcript) session(in *input) string {
	id := SessionID(in.number())
	switch in.verb {
	case "attach":
		worker, incarnation, _ := strings.Cut(in.word(), "/")
		credit := NewCredit(uint32(in.option("count", 100)), uint64(in.option("bytes", 1000)))
		c.d.Attach(id, Worker{worker, incarnation}, credit)
	case "claim":
		slot, epoch := int(in.number()), in.number()
		if !c.d.Claim(id, slot, epoch, in.deliveries()) {
			return fmt.Sprintf("session %d does not get slot %d\n", id, slot)
		}
	case "keep":
		c.d.Keep(id, in.deliveries())
	case "release":
		c.d.Release(id, int(in.number()))
	case "detach":
		c.d.Detach(id)
	case "return":
		for _, delivery := range in.deliveries() {
			c.d.Return(id, delivery)
		}
	default:
		in.t.Fatalf("unknown input %s", in.verb)
	}
	return ""
}

func (c *transcript) next(in *input) string {
	sends := c.d.Next(in.number(), int(in.option("most", 100)))
	if len(sends) == 0 {
		return "nothing\n"
	}
	var out strings.Builder
	for _, send := range sends {
		fmt.Fprintf(&out, "to %d: %s attempt %d%s\n", send.Session, name(send.Delivery), send.Attempt, inLane(send.Lane))
		c.d.Charge(send, int(in.option("bytes", 0)))
	}
	return out.String()
}

// drain calls next until there is nothing, and prints it a line a call.
func (c *transcript) drain(in *input) string {
	now, calls := in.number(), []string{}
	for {
		sends := c.d.Next(now, 100)
		if len(sends) == 0 {
			return strings.Join(append(calls, "nothing\n"), "\n")
		}
		words := make([]string, 0, len(sends))
		for _, send := range sends {
			words = append(words, fmt.Sprintf("%s to %d", name(send.Delivery), send.Session))
			c.d.Charge(send, int(in.option("bytes", 0)))
		}
		calls = append(calls, strings.Join(words, ", "))
	}
}

func inLane(lane ledger.Lane) string {
	if lane == ledger.NoLane {
		return ""
	}
	return fmt.Sprintf(" in lane %d", lane)
}

func name(d ledger.Delivery) string { return fmt.Sprintf("%d:%s", d.Subscription, d.Position) }

// input is one line of a tell.
type input struct {
	t       *testing.T
	verb    string
	words   []string
	options map[string]string
}

func parseInput(t *testing.T, line string) *input {
	fields := strings.Fields(line)
	in := &input{t: t, verb: fields[0], options: make(map[string]string)}
	for _, field := range fields[1:] {
		if key, value, ok := strings.Cut(field, "="); ok {
			in.options[key] = value
		} else {
			in.words = append(in.words, field)
		}
	}
	return in
}

func (in *input) more() bool { return len(in.words) > 0 }

func (in *input) word() string {
	if !in.more() {
		in.t.Fatalf("%s lacks a word", in.verb)
	}
	word := in.words[0]
	in.words = in.words[1:]
	return word
}

func (in *input) number() int64 { return parseNumber(in.t, in.word()) }

func (in *input) option(name string, otherwise int64) int64 {
	if value, given := in.options[name]; given {
		return parseNumber(in.t, value)
	}
	return otherwise
}

// deliveries reads the rest of the line.
func (in *input) deliveries() []ledger.Delivery {
	var all []ledger.Delivery
	for in.more() {
		word, times, many := strings.Cut(in.word(), "+")
		n := int64(1)
		if many {
			n = parseNumber(in.t, times)
		}
		subscription, position, _ := strings.Cut(word, ":")
		sequence, index, _ := strings.Cut(position, "/")
		first := ledger.Delivery{
			Subscription: ledger.Number(parseNumber(in.t, subscription)),
			Position:     ledger.Position{Sequence: uint64(parseNumber(in.t, sequence)), Index: uint32(parseNumber(in.t, index))},
		}
		for range n {
			all = append(all, first)
			first.Position.Index++
		}
	}
	return all
}

func parseNumber(t *testing.T, text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("%q is not a number", text)
	}
	return n
}

// describe prints everything a machine knows.
func describe(d *Dispatch) string {
	var out strings.Builder
	for i, slot := range d.slots {
		owner := "nobody's"
		if slot.owner != nil {
			owner = fmt.Sprintf("session %d's", slot.owner.id)
		}
		fmt.Fprintf(&out, "slot %d: %s, epoch %d, subscriptions %v\n", i, owner, slot.epoch, slot.members)
	}
	for _, id := range slices.Sorted(maps.Keys(d.sessions)) {
		s := d.sessions[id]
		fmt.Fprintf(&out, "session %d: %s/%s, credit %d and %d bytes, %d in hand\n",
			id, s.worker.ID, s.worker.Incarnation, s.credit.count, s.credit.bytes, len(s.hands))
	}
	for _, number := range slices.Sorted(maps.Keys(d.subscriptions)) {
		describeSubscription(&out, d.subscriptions[number])
	}
	return out.String()
}

func describeSubscription(out *strings.Builder, s *subscription) {
	fmt.Fprintf(out, "subscription %d: window %d", s.number, s.window)
	if s.pace != (ledger.Pace{}) {
		fmt.Fprintf(out, ", %+v", s.pace)
	}
	out.WriteByte('\n')
	waiting := slices.SortedFunc(slices.Values(s.waiting.items), func(a, b item) int { return a.position.Compare(b.position) })
	for _, it := range waiting {
		fmt.Fprintf(out, "  %s waits until %d, attempts %d\n", it.position, it.due, it.attempts)
	}
	for _, position := range slices.SortedFunc(maps.Keys(s.hands), ledger.Position.Compare) {
		h := s.hands[position]
		state := ""
		if !h.session.attached {
			state = ", which has gone"
		}
		fmt.Fprintf(out, "  %s is in the hands of session %d%s, attempts %d, %d bytes\n",
			position, h.session.id, state, h.attempts, h.bytes)
	}
}
