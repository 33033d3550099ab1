package dispatch

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
)

// TestAgainstModel feeds the machine random inputs and compares it after each
// with a model that is too simple to be wrong in the same way: one table of
// deliveries, searched from end to end. Which deliveries Next picks is the
// machine's choice; the model says whether it may, and whether it left any.
func TestAgainstModel(t *testing.T) {
	seeds := 400
	if testing.Short() {
		seeds = 40
	}
	var sent gameSends
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			g := newGame(t, uint64(seed))
			g.play(600)
			sent.all, sent.oldest, sent.newest = sent.all+g.sent.all, sent.oldest+g.sent.oldest, sent.newest+g.sent.newest
			sent.ordered, sent.behind = sent.ordered+g.sent.ordered, sent.behind+g.sent.behind
			sent.kept, sent.late, sent.gaveWay = sent.kept+g.sent.kept, sent.late+g.sent.late, sent.gaveWay+g.sent.gaveWay
		})
	}
	if sent.all < 20*seeds || sent.oldest < seeds/2 || sent.newest < seeds/2 ||
		sent.ordered < 5*seeds || sent.behind < seeds/2 || sent.kept < 2*seeds || sent.late < seeds/10 || sent.gaveWay < seeds {
		t.Errorf("some of it hardly ever happened: %+v", sent)
	}
}

// Sizes of a game: small, so that its pieces meet.
const (
	gameSlots         = 4
	gameSubscriptions = 10
	gameWorkers       = 3
)

// gameSites are where endpoints are, some at none.
var gameSites = []string{"a", "", "b", "a"}

// game is the machine and the model, fed the same.
type game struct {
	t      *testing.T
	chance *rand.Rand
	log    []string // inputs so far
	d      *Dispatch
	now    int64

	owed     map[ledger.Delivery]*modelDelivery
	windows  map[ledger.Number]int // of the subscriptions that are known
	paces    map[ledger.Number]ledger.Pace
	orders   map[ledger.Number]ledger.Ordering
	sites    map[ledger.Number]string
	sent     gameSends
	sessions map[SessionID]*modelSession
	slots    [gameSlots]modelSlot
	lastID   SessionID
	sequence uint64
}

// gameSends counts what was sent: to endpoints without and with an open breaker;
// and of these in a lane, and behind others of the lane.
// kept counts what workers said that they still have, late what lost its turn
// before it was on its way, gaveWay what was due and had a site that is crowded.
type gameSends struct{ all, oldest, newest, ordered, behind, kept, late, gaveWay int }

type modelDelivery struct {
	attempts uint32
	due      int64
	holder   *modelSession // nil: it waits
	bytes    int
	site     string // that it was sent to

	key    int // of its event; 0: none
	lane   ledger.Lane
	sentAs ledger.Lane // what its holder knows it by; NoLane: nothing follows it
	onWay  bool        // it is charged
}

// rivals returns what is owed in the order of a delivery, beside itself. While
// something of a subscription may be in the order of anything, all that has a
// lane is.
func (g *game) rivals(delivery ledger.Delivery) map[ledger.Delivery]*modelDelivery {
	lane, whole := g.owed[delivery].lane, false
	for other, m := range g.owed {
		whole = whole || other.Subscription == delivery.Subscription && m.lane == ledger.WholeLane
	}
	found := make(map[ledger.Delivery]*modelDelivery)
	for other, m := range g.owed {
		if other.Subscription == delivery.Subscription && other != delivery && m.lane != ledger.NoLane &&
			(lane == m.lane || lane != ledger.NoLane && whole) {
			found[other] = m
		}
	}
	return found
}

// turn says whether a delivery may be sent as far as its order goes: it must be
// if nothing of its lane is in hands, and it may follow what is.
func (g *game) turn(delivery ledger.Delivery, to *modelSession, as ledger.Lane) (may, must bool) {
	may, must = true, true
	for other, m := range g.rivals(delivery) {
		older := other.Position.Compare(delivery.Position) < 0
		switch {
		case m.holder == nil && older:
			return false, false
		case m.holder != nil:
			must = false
			may = may && older && m.holder == to && m.sentAs == as && m.onWay
		}
	}
	return may, must
}

type modelSession struct {
	id       SessionID
	worker   Worker
	attached bool
	count    int64 // granted
	bytes    int64 // granted
}

type modelSlot struct {
	epoch int64
	owner *modelSession
}

func newGame(t *testing.T, seed uint64) *game {
	return &game{
		t: t, chance: rand.New(rand.NewPCG(seed, 1)), d: New(gameSlots), now: 1000,
		owed:     make(map[ledger.Delivery]*modelDelivery),
		windows:  make(map[ledger.Number]int),
		paces:    make(map[ledger.Number]ledger.Pace),
		orders:   make(map[ledger.Number]ledger.Ordering),
		sites:    make(map[ledger.Number]string),
		sessions: make(map[SessionID]*modelSession),
	}
}

func (g *game) fatalf(format string, args ...any) {
	g.t.Helper()
	for _, input := range g.log {
		g.t.Log(input)
	}
	g.t.Fatalf(format, args...)
}

func (g *game) play(steps int) {
	for range steps {
		g.step()
		g.compare()
	}
	g.drain()
}

// step is one random input.
func (g *game) step() {
	switch n := g.chance.IntN(100); {
	case n < 6:
		g.put()
	case n < 7:
		g.remove()
	case n < 32:
		g.owe()
	case n < 40:
		g.again()
	case n < 50:
		g.end()
	case n < 53:
		g.judge()
	case n < 55:
		g.pace()
	case n < 56:
		g.hasten()
	case n < 61:
		g.attach()
	case n < 68:
		g.claim()
	case n < 70:
		g.keep()
	case n < 72:
		g.release()
	case n < 75:
		g.detach()
	case n < 81:
		g.giveBack()
	case n < 82:
		g.depart()
	case n < 83:
		g.reorder()
	case n == 83 && g.chance.IntN(3) == 0:
		g.settle()
	case n == 83 && g.chance.IntN(2) == 0:
		g.grant()
	case n < 84:
		g.now += g.chance.Int64N(50)
		g.say("time %d", g.now)
	case n < 92:
		g.next(1 + g.chance.IntN(5))
	default:
		g.drain()
	}
}

func (g *game) say(format string, args ...any) { g.log = append(g.log, fmt.Sprintf(format, args...)) }

func (g *game) number() ledger.Number { return ledger.Number(1 + g.chance.IntN(gameSubscriptions)) }

// some returns one of the deliveries that are owed, and those that pass keep.
func (g *game) some(keep func(ledger.Delivery, *modelDelivery) bool) (ledger.Delivery, bool) {
	var all []ledger.Delivery
	for delivery, m := range g.owed {
		if keep(delivery, m) {
			all = append(all, delivery)
		}
	}
	if len(all) == 0 {
		return ledger.Delivery{}, false
	}
	slices.SortFunc(all, compare)
	return all[g.chance.IntN(len(all))], true
}

func (g *game) anySession() *modelSession {
	ids := slices.Sorted(maps.Keys(g.sessions))
	if len(ids) == 0 {
		return nil
	}
	return g.sessions[ids[g.chance.IntN(len(ids))]]
}

func (g *game) slotOf(number ledger.Number) *modelSlot { return &g.slots[number%gameSlots] }

func (g *game) put() {
	number := g.number()
	g.say("put %d", number)
	g.d.Put(number)
	if _, known := g.windows[number]; !known {
		g.windows[number] = WindowStart
		g.orders[number] = []ledger.Ordering{
			ledger.Unordered, ledger.OrderedByKey, ledger.Unordered, ledger.OrderedSubscription, ledger.Unordered,
		}[number%5]
		g.sites[number] = gameSites[int(number)%len(gameSites)]
		g.d.Settle(number, g.sites[number])
	}
}

// settle has an endpoint move. What is in hands is where it was sent.
func (g *game) settle() {
	number, name := g.number(), gameSites[g.chance.IntN(len(gameSites))]
	g.say("settle %d at %q", number, name)
	g.d.Settle(number, name)
	if _, known := g.windows[number]; known {
		g.sites[number] = name
	}
}

// crowded says whether what a session has in hand for a site is all that it may
// be.
func (g *game) crowded(s *modelSession, name string) bool {
	var count, sum int64
	for _, m := range g.owed {
		if m.holder == s && m.site == name {
			count, sum = count+1, sum+int64(m.bytes)
		}
	}
	leftCount, leftBytes := g.left(s)
	return name != "" && count > 0 && (count >= siteShare*leftCount || sum >= siteShare*leftBytes)
}

// laneOf returns the lane of a delivery that is owed from now on.
func (g *game) laneOf(number ledger.Number, key int) ledger.Lane {
	switch {
	case g.orders[number] == ledger.OrderedSubscription:
		return ledger.WholeLane
	case g.orders[number] == ledger.OrderedByKey && g.chance.IntN(20) == 0:
		return ledger.WholeLane // owed again
	case g.orders[number] == ledger.OrderedByKey && key > 0:
		return ledger.WholeLane + ledger.Lane(key)
	}
	return ledger.NoLane
}

// reorder changes the ordering of a subscription: the keys of what is owed are
// not known.
func (g *game) reorder() {
	number := g.number()
	if _, known := g.windows[number]; !known {
		return
	}
	order := []ledger.Ordering{ledger.Unordered, ledger.OrderedByKey, ledger.OrderedSubscription}[g.chance.IntN(3)]
	lane := ledger.WholeLane
	if order == ledger.Unordered {
		lane = ledger.NoLane
	}
	g.say("%d is ordered by %s", number, order)
	g.orders[number] = order
	g.d.Reorder(number, func(ledger.Position) ledger.Lane { return lane })
	for delivery, m := range g.owed {
		if delivery.Subscription == number {
			m.lane, m.sentAs = lane, ledger.NoLane
		}
	}
	if pace := g.paces[number]; pace.Newest {
		pace.Newest = false
		g.d.SetPace(number, pace)
		g.paces[number] = pace
	}
}

// depart is a delivery that had to be read from the log, and is on its way now.
func (g *game) depart() {
	delivery, ok := g.some(func(_ ledger.Delivery, m *modelDelivery) bool { return m.holder != nil && !m.onWay })
	if !ok {
		return
	}
	m := g.owed[delivery]
	inTurn := true
	for other, r := range g.rivals(delivery) {
		if other.Position.Compare(delivery.Position) < 0 && r.holder != m.holder {
			inTurn = false
		}
	}
	if got := g.d.InTurn(delivery); got != inTurn {
		g.fatalf("%v is in its turn: %t, want %t", delivery, got, inTurn)
	}
	if !inTurn {
		g.say("%v is not sent to %d: it is not its turn any more", delivery, m.holder.id)
		g.d.Return(m.holder.id, delivery)
		if m.holder.attached {
			m.holder, m.bytes = nil, 0
		}
		g.sent.late++
		return
	}
	g.say("%v is on its way to %d", delivery, m.holder.id)
	bytes := 1 + g.chance.IntN(20)
	g.d.Charge(Send{Session: m.holder.id, Delivery: delivery}, bytes)
	if m.holder.attached {
		m.onWay = true
		m.bytes += bytes
	}
}

func (g *game) remove() {
	number := g.number()
	g.say("delete %d", number)
	g.d.Delete(number)
	delete(g.windows, number)
	delete(g.paces, number)
	delete(g.orders, number)
	delete(g.sites, number)
	maps.DeleteFunc(g.owed, func(d ledger.Delivery, _ *modelDelivery) bool { return d.Subscription == number })
}

// owe is something new.
func (g *game) owe() {
	g.sequence++
	delivery := ledger.Delivery{Subscription: g.number(), Position: ledger.Position{Sequence: g.sequence, Index: g.chance.Uint32N(2)}}
	due := g.now + g.chance.Int64N(60) - 40
	g.say("owe %v due %d", delivery, due)
	key := g.chance.IntN(4)
	lane := g.laneOf(delivery.Subscription, key)
	g.say("  in lane %d", lane)
	g.d.OweInLane(delivery, lane, 0, due)
	if _, known := g.windows[delivery.Subscription]; known {
		g.owed[delivery] = &modelDelivery{due: due, key: key, lane: lane}
	}
}

// again is an attempt that failed, of something in hand or of something that
// was taken from whoever reports it.
func (g *game) again() {
	delivery, ok := g.some(func(ledger.Delivery, *modelDelivery) bool { return true })
	if !ok {
		return
	}
	m := g.owed[delivery]
	m.attempts, m.due, m.holder, m.bytes = m.attempts+1, g.now+g.chance.Int64N(100), nil, 0
	g.say("owe %v again due %d", delivery, m.due)
	g.d.OweInLane(delivery, m.lane, m.attempts, m.due)
}

func (g *game) end() {
	delivery, ok := g.some(func(ledger.Delivery, *modelDelivery) bool { return true })
	if !ok || g.chance.IntN(10) == 0 {
		delivery = ledger.Delivery{Subscription: g.number(), Position: ledger.Position{Sequence: 1 << 40}}
	}
	g.say("end %v", delivery)
	g.d.End(delivery)
	delete(g.owed, delivery)
}

func (g *game) judge() {
	number := g.number()
	window, known := g.windows[number]
	if g.chance.IntN(2) == 0 {
		g.say("succeeded %d", number)
		g.d.Succeeded(number)
		window = min(window+1, WindowMax)
	} else {
		g.say("failed %d", number)
		g.d.Failed(number)
		window = max(window/2, 1)
	}
	if known {
		g.windows[number] = window
	}
}

// pace opens and closes breakers, pauses and resumes.
func (g *game) pace() {
	number := g.number()
	var pace ledger.Pace
	switch n := g.chance.IntN(10); {
	case n < 1:
		pace.Stopped = true
	case n < 7:
		pace.Probing, pace.Newest = true, g.chance.IntN(2) == 0 && g.orders[number] == ledger.Unordered
		pace.Probe = g.now + g.chance.Int64N(60) - 30
		pace.Stopped = n == 1
	case n < 8:
		pace.After = g.now + g.chance.Int64N(60) - 30
	}
	g.say("pace of %d is %+v", number, pace)
	g.d.SetPace(number, pace)
	if _, known := g.windows[number]; known {
		g.paces[number] = pace
	}
}

// hasten is a breaker that closes: most often the next thing is its pace.
func (g *game) hasten() {
	number, due := g.number(), g.now-g.chance.Int64N(3)
	g.say("hasten %d to %d", number, due)
	g.d.Hasten(number, due)
	for delivery, m := range g.owed {
		if delivery.Subscription == number {
			m.due = min(m.due, due)
		}
	}
	if g.chance.IntN(3) > 0 {
		g.say("pace of %d is free", number)
		g.d.SetPace(number, ledger.Pace{})
		delete(g.paces, number)
	}
}

// room returns how many of a subscription's deliveries may be in hands.
func (g *game) room(number ledger.Number) int {
	switch pace := g.paces[number]; {
	case pace.Stopped:
		return 0
	case pace.Probing:
		return 1
	}
	return g.windows[number]
}

// due returns when a delivery may be sent.
func (g *game) due(delivery ledger.Delivery) int64 {
	pace := g.paces[delivery.Subscription]
	if pace.Probing {
		return max(pace.Probe, pace.After)
	}
	return max(g.owed[delivery].due, pace.After)
}

func (g *game) attach() {
	g.lastID++
	s := &modelSession{
		id: g.lastID, attached: true,
		worker: Worker{ID: fmt.Sprint("w", g.chance.IntN(gameWorkers)), Incarnation: fmt.Sprint(g.chance.IntN(2))},
		count:  g.chance.Int64N(30), bytes: g.chance.Int64N(3000),
	}
	g.say("attach %d %v with %d, %d bytes", s.id, s.worker, s.count, s.bytes)
	g.d.Attach(s.id, s.worker, NewCredit(uint32(s.count), uint64(s.bytes)))
	g.sessions[s.id] = s
}

// grant changes what a session takes, below what it has as well.
func (g *game) grant() {
	s := g.anySession()
	if s == nil {
		return
	}
	s.count, s.bytes = g.chance.Int64N(30), g.chance.Int64N(3000)
	g.say("grant %d %d, %d bytes", s.id, s.count, s.bytes)
	g.d.Grant(s.id, NewCredit(uint32(s.count), uint64(s.bytes)))
}

func (g *game) claim() {
	s := g.anySession()
	if s == nil {
		return
	}
	number := g.chance.IntN(gameSlots+2) - 1
	epoch := g.chance.Int64N(4)
	valid := number >= 0 && number < gameSlots
	if valid {
		epoch += g.slots[number].epoch - 1
	}
	var inHand []ledger.Delivery
	for range g.chance.IntN(6) {
		if delivery, ok := g.some(func(d ledger.Delivery, _ *modelDelivery) bool {
			return int(d.Subscription%gameSlots) == number || g.chance.IntN(8) == 0
		}); ok {
			inHand = append(inHand, delivery)
		}
	}
	g.say("claim %d slot %d epoch %d with %v", s.id, number, epoch, inHand)
	granted := g.d.Claim(s.id, number, epoch, inHand)
	if want := s.attached && valid && epoch >= g.slots[number].epoch; granted != want {
		g.fatalf("claim was granted: %t, want %t", granted, want)
	}
	if granted {
		g.claimed(s, number, epoch, inHand)
	}
}

// claimed is what doc.go says of a slot that changes hands.
func (g *game) claimed(owner *modelSession, number int, epoch int64, inHand []ledger.Delivery) {
	g.slots[number] = modelSlot{epoch, owner}
	for delivery, m := range g.owed {
		if g.slotOf(delivery.Subscription) != &g.slots[number] {
			continue
		}
		declared := slices.Contains(inHand, delivery)
		switch {
		case m.holder == owner:
		case m.holder != nil && declared && m.holder.worker == owner.worker:
			m.holder, m.bytes, m.sentAs, m.site = owner, 0, ledger.NoLane, g.sites[delivery.Subscription]
		case m.holder != nil && m.holder.attached:
		case declared:
			m.holder, m.bytes, m.sentAs, m.site = owner, 0, ledger.NoLane, g.sites[delivery.Subscription]
		default:
			m.holder, m.bytes = nil, 0
		}
	}
}

// keep is a worker that says what it still has, whoever owns it by now.
func (g *game) keep() {
	s := g.anySession()
	if s == nil {
		return
	}
	var inHand []ledger.Delivery
	for range g.chance.IntN(4) {
		if delivery, ok := g.some(func(ledger.Delivery, *modelDelivery) bool { return true }); ok {
			inHand = append(inHand, delivery)
		}
	}
	g.say("keep %d %v", s.id, inHand)
	g.d.Keep(s.id, inHand)
	if !s.attached {
		return
	}
	for _, delivery := range inHand {
		m := g.owed[delivery]
		if m.holder == nil || !m.holder.attached && m.holder.worker == s.worker {
			m.holder, m.bytes, m.sentAs, m.site = s, 0, ledger.NoLane, g.sites[delivery.Subscription]
			g.sent.kept++
		}
	}
}

func (g *game) release() {
	s := g.anySession()
	if s == nil {
		return
	}
	number := g.chance.IntN(gameSlots+2) - 1
	g.say("release %d slot %d", s.id, number)
	g.d.Release(s.id, number)
	if number >= 0 && number < gameSlots && g.slots[number].owner == s {
		g.slots[number].owner = nil
	}
}

func (g *game) detach() {
	s := g.anySession()
	if s == nil {
		return
	}
	g.say("detach %d", s.id)
	g.d.Detach(s.id)
	if !s.attached {
		return
	}
	s.attached = false
	for i := range g.slots {
		if g.slots[i].owner == s {
			g.slots[i].owner = nil
		}
	}
	for delivery, m := range g.owed {
		if m.holder == s && g.slotOf(delivery.Subscription).owner != nil {
			m.holder, m.bytes = nil, 0
		}
	}
}

// giveBack is a delivery handed back, by who has it or by who has not.
func (g *game) giveBack() {
	s := g.anySession()
	delivery, ok := g.some(func(_ ledger.Delivery, m *modelDelivery) bool { return m.holder != nil })
	if s == nil || !ok {
		return
	}
	if g.chance.IntN(4) > 0 {
		s = g.owed[delivery].holder
	}
	g.say("return %d %v", s.id, delivery)
	g.d.Return(s.id, delivery)
	if m := g.owed[delivery]; m.holder == s && s.attached {
		m.holder, m.bytes = nil, 0
	}
}

// next takes some sends, and charges them.
func (g *game) next(most int) int {
	g.say("next %d, %d at the most", g.now, most)
	sends := g.d.Next(g.now, most)
	if len(sends) > most {
		g.fatalf("%d sends, at the most %d were asked for", len(sends), most)
	}
	served := make(map[ledger.Number]bool)
	for _, send := range sends {
		g.say("  sends %v", send)
		if served[send.Subscription] {
			g.fatalf("subscription %d was served twice", send.Subscription)
		}
		served[send.Subscription] = true
		g.check(send)
		m := g.owed[send.Delivery]
		m.holder, m.sentAs, m.onWay, m.site = g.sessions[send.Session], send.Lane, false, g.sites[send.Subscription]
	}
	for _, send := range sends {
		if g.chance.IntN(8) == 0 {
			continue // it has to be read from the log
		}
		g.owed[send.Delivery].onWay = true
		for range 1 + g.chance.IntN(2) {
			bytes := g.chance.IntN(200)
			g.d.Charge(send, bytes)
			g.owed[send.Delivery].bytes += bytes
		}
	}
	return len(sends)
}

// check says whether a send is allowed, and the right one.
func (g *game) check(send Send) {
	m, s := g.owed[send.Delivery], g.sessions[send.Session]
	switch {
	case m == nil:
		g.fatalf("%v is not owed", send)
	case m.holder != nil:
		g.fatalf("%v is in the hands of session %d", send, m.holder.id)
	case g.due(send.Delivery) > g.now:
		g.fatalf("%v is due at %d, it is %d", send, g.due(send.Delivery), g.now)
	case g.slotOf(send.Subscription).owner != s:
		g.fatalf("%v: the session does not own the slot", send)
	case !g.open(s):
		g.fatalf("%v: the session has no credit", send)
	case g.crowded(s, g.sites[send.Subscription]):
		g.fatalf("%v: its site is crowded", send)
	case g.held(send.Subscription) >= g.room(send.Subscription):
		g.fatalf("%v: there is no room, %+v", send, g.paces[send.Subscription])
	case send.Attempt != m.attempts+1:
		g.fatalf("%v: %d attempts were made", send, m.attempts)
	}
	may, must := g.turn(send.Delivery, s, send.Lane)
	switch first, ok := g.first(send.Subscription); {
	case !may:
		g.fatalf("%v is sent out of order: %v", send, slices.Collect(maps.Keys(g.rivals(send.Delivery))))
	case (send.Lane == ledger.NoLane) != (m.lane == ledger.NoLane):
		g.fatalf("%v is in the lane %d", send, m.lane)
	case ok && must && send.Delivery != first, ok && !must && g.before(first, send.Delivery):
		g.fatalf("%v: %v waits before it", send, first)
	}
	if m.lane != ledger.NoLane {
		g.sent.ordered++
		if !must {
			g.sent.behind++
		}
	}
	switch pace := g.paces[send.Subscription]; {
	case !pace.Probing:
		g.sent.all++
	case pace.Newest:
		g.sent.newest++
	default:
		g.sent.oldest++
	}
}

// first returns what a subscription has waiting that is due first or, of one
// that is probed, the oldest or the newest. What waits for others of its lane
// does not count.
func (g *game) first(number ledger.Number) (first ledger.Delivery, ok bool) {
	for delivery, m := range g.owed {
		if delivery.Subscription != number || m.holder != nil {
			continue
		}
		if _, must := g.turn(delivery, nil, 0); must && (!ok || g.before(delivery, first)) {
			first, ok = delivery, true
		}
	}
	return first, ok
}

// before says which of two deliveries of a subscription is sent first.
func (g *game) before(a, b ledger.Delivery) bool {
	switch pace := g.paces[a.Subscription]; {
	case pace.Probing && pace.Newest:
		return compare(a, b) > 0
	case pace.Probing:
		return compare(a, b) < 0
	}
	return cmp.Or(cmp.Compare(g.owed[a].due, g.owed[b].due), a.Position.Compare(b.Position)) < 0
}

// compareLanes looks into the lanes of a subscription, and returns what waits
// there and is not offered.
func (g *game) compareLanes(s *subscription) (rest []item) {
	held := 0
	for _, h := range s.hands {
		if h.lane != ledger.NoLane {
			held++
		}
	}
	for id, l := range s.lanes.all {
		rest, held = append(rest, l.rest...), held-len(l.held)
		switch {
		case l.offered >= 0 && s.sendLane(s.waiting.items[l.offered].lane) != id:
			g.fatalf("lane %d of subscription %d has lost what it offered", id, s.number)
		case l.offered < 0 && len(l.rest) > 0 && len(l.held) == 0:
			g.fatalf("lane %d of subscription %d offers nothing", id, s.number)
		case l.offered < 0 && len(l.rest) == 0 && len(l.held) == 0:
			g.fatalf("lane %d of subscription %d is empty, and kept", id, s.number)
		}
	}
	if held != 0 {
		g.fatalf("subscription %d has %d more in hands than in its lanes", s.number, held)
	}
	return rest
}

func (g *game) held(number ledger.Number) int {
	n := 0
	for delivery, m := range g.owed {
		if delivery.Subscription == number && m.holder != nil {
			n++
		}
	}
	return n
}

// left returns what is left of a session's credit.
func (g *game) left(s *modelSession) (count, bytes int64) {
	count, bytes = s.count, s.bytes
	for _, m := range g.owed {
		if m.holder == s {
			count, bytes = count-1, bytes-int64(m.bytes)
		}
	}
	return count, bytes
}

func (g *game) open(s *modelSession) bool {
	count, bytes := g.left(s)
	return s != nil && s.attached && count > 0 && bytes > 0
}

// drain takes sends until there are none; then nothing that could be sent may
// be left, and the machine wakes no later than something could be.
func (g *game) drain() {
	for g.next(100) > 0 {
		g.compare()
	}
	at, ok := g.d.Wake()
	if ok && at <= g.now {
		g.fatalf("it would wake at %d, it is %d", at, g.now)
	}
	for delivery, m := range g.owed {
		owner := g.slotOf(delivery.Subscription).owner
		room := g.held(delivery.Subscription) < g.room(delivery.Subscription)
		if m.holder != nil || owner == nil || !g.open(owner) || !room {
			continue
		}
		if g.crowded(owner, g.sites[delivery.Subscription]) {
			g.sent.gaveWay++
			continue
		}
		if _, must := g.turn(delivery, nil, 0); !must {
			continue // it waits for others of its lane
		}
		due := g.due(delivery)
		if due <= g.now {
			g.fatalf("%v is due, and was not sent", delivery)
		}
		if !ok || at > due {
			g.fatalf("%v is due at %d, and it wakes at %d (%t)", delivery, due, at, ok)
		}
	}
}

// compare compares everything that the machine and the model have in common.
func (g *game) compare() {
	held := 0
	for delivery, m := range g.owed {
		var holders []SessionID
		for id := range g.sessions {
			if g.d.Holds(id, delivery) {
				holders = append(holders, id)
			}
		}
		var want []SessionID
		if m.holder != nil {
			held++
			if m.holder.attached {
				want = []SessionID{m.holder.id}
			}
		}
		if !slices.Equal(holders, want) {
			g.fatalf("%v is in the hands of %v, want %v", delivery, holders, want)
		}
	}
	if got := g.d.InHand(); got != held {
		g.fatalf("%d deliveries are in hands, want %d", got, held)
	}
	for id, s := range g.sessions {
		if !s.attached {
			continue
		}
		count, bytes := g.left(s)
		if got, want := g.d.sessions[id].credit, (Credit{count, bytes}); got != want {
			g.fatalf("session %d has %+v left, want %+v", id, got, want)
		}
	}
	g.compareSlots()
	g.compareSubscriptions()
}

func (g *game) compareSlots() {
	for i, slot := range g.slots {
		want := SlotState{Epoch: slot.epoch}
		if slot.owner != nil {
			want.Worker = slot.owner.worker.ID
		}
		for number := range g.windows {
			if g.slotOf(number) == &g.slots[i] {
				want.Subscriptions++
				want.InHand += g.held(number)
			}
		}
		if got := g.d.Slot(i); got != want {
			g.fatalf("slot %d is %+v, want %+v", i, got, want)
		}
	}
}

// compareSubscriptions looks inside: each delivery is in one place, once, and
// what the machine keeps for its turns is bounded by the subscriptions.
func (g *game) compareSubscriptions() {
	for number, s := range g.d.subscriptions {
		window, known := g.windows[number]
		if !known || s.window != window {
			g.fatalf("subscription %d has the window %d, want %d (%t)", number, s.window, window, known)
		}
		places := make(map[ledger.Position]int)
		waiting := slices.Clone(s.waiting.items)
		if s.lanes != nil {
			waiting = append(waiting, g.compareLanes(s)...)
		}
		for _, it := range waiting {
			places[it.position]++
			m := g.owed[ledger.Delivery{Subscription: number, Position: it.position}]
			if m == nil || m.due != it.due || m.attempts != it.attempts || m.lane != it.lane {
				g.fatalf("subscription %d has %+v waiting, want %+v", number, it, m)
			}
		}
		if s.pace != g.paces[number] {
			g.fatalf("subscription %d has the pace %+v, want %+v", number, s.pace, g.paces[number])
		}
		for position, h := range s.hands {
			places[position]++
			m := g.owed[ledger.Delivery{Subscription: number, Position: position}]
			if m == nil || m.due != h.due || m.attempts != h.attempts {
				g.fatalf("subscription %d has %+v in hands, want %+v", number, h.item, m)
			}
		}
		for delivery := range g.owed {
			if n := places[delivery.Position]; delivery.Subscription == number && n != 1 {
				g.fatalf("%v is in %d places", delivery, n)
			}
			delete(places, delivery.Position)
		}
		if len(places) > 0 {
			g.fatalf("subscription %d has more than it is owed: %v", number, places)
		}
	}
	if got, want := len(g.d.subscriptions), len(g.windows); got != want {
		g.fatalf("%d subscriptions are known, want %d", got, want)
	}
	if n := len(g.d.timers.items); n > len(g.d.subscriptions) {
		g.fatalf("%d timers for %d subscriptions", n, len(g.d.subscriptions))
	}
	for i, slot := range g.d.slots {
		ring := make(map[*subscription]bool)
		for _, s := range slot.ready {
			if ring[s] {
				g.fatalf("subscription %d stands twice in the ring of slot %d", s.number, i)
			}
			ring[s] = true
		}
	}
}
