package ledger

// lowest finds the subscription that has the lowest of something, and of those
// that have it the one of the lowest number, in no more
// time than what has changed since the last look deserves, however many there
// are. It is lazy: what is noted of a subscription may be lower than what is true
// by now, but never higher, and only what is on top is put right.
//
// So what it orders by must not fall for a subscription without being noted.
type lowest struct {
	heap []lowestItem                       // a binary min-heap by key and number
	now  func(*Subscription) (uint64, bool) // what is true; false: it has none
	at   func(*Subscription) *int           // where its index in the heap plus one is kept; 0: it is not there
}

type lowestItem struct {
	key uint64
	of  *Subscription
}

func (i lowestItem) before(other lowestItem) bool {
	return i.key < other.key || i.key == other.key && i.of.Number < other.of.Number
}

// note says that a subscription has this.
func (l *lowest) note(s *Subscription, key uint64) {
	i := *l.at(s) - 1
	switch {
	case i < 0:
		l.heap = append(l.heap, lowestItem{})
		i = len(l.heap) - 1
	case key >= l.heap[i].key:
		return
	}
	l.up(i, lowestItem{key, s})
}

// least returns the lowest there is, and whose it is; false if there is none.
func (l *lowest) least() (key uint64, of *Subscription, ok bool) {
	for len(l.heap) > 0 {
		top := l.heap[0]
		key, ok := l.now(top.of)
		switch {
		case !ok:
			l.remove(top.of)
		case key > top.key:
			l.down(0, lowestItem{key, top.of})
		default:
			return key, top.of, true
		}
	}
	return 0, nil, false
}

// remove forgets a subscription, until it is noted again.
func (l *lowest) remove(s *Subscription) {
	i := *l.at(s) - 1
	if i < 0 {
		return
	}
	*l.at(s) = 0
	last := len(l.heap) - 1
	moved := l.heap[last]
	l.heap[last] = lowestItem{}
	l.heap = l.heap[:last]
	if i < last {
		l.down(i, moved)
		l.up(*l.at(moved.of)-1, moved)
	}
}

// up puts an item into the hole at i, or above it.
func (l *lowest) up(i int, item lowestItem) {
	for i > 0 {
		parent := (i - 1) / 2
		if !item.before(l.heap[parent]) {
			break
		}
		l.set(i, l.heap[parent])
		i = parent
	}
	l.set(i, item)
}

// down puts an item into the hole at i, or below it.
func (l *lowest) down(i int, item lowestItem) {
	for {
		child := 2*i + 1
		if child >= len(l.heap) {
			break
		}
		if right := child + 1; right < len(l.heap) && l.heap[right].before(l.heap[child]) {
			child = right
		}
		if !l.heap[child].before(item) {
			break
		}
		l.set(i, l.heap[child])
		i = child
	}
	l.set(i, item)
}

func (l *lowest) set(i int, item lowestItem) {
	l.heap[i] = item
	*l.at(item.of) = i + 1
}

// needs returns the oldest record that a subscription is owed events of, or
// may be; false if there is none.
func (s *Subscription) needs() (sequence uint64, ok bool) {
	if len(s.owed) > 0 {
		sequence, ok = s.owed[0].position.Sequence, true
	}
	if s.behind && (!ok || s.cursor.Sequence < sequence) {
		sequence, ok = s.cursor.Sequence, true
	}
	return sequence, ok
}

// waitsSince returns since when its oldest delivery is owed; false if nothing
// is.
func (s *Subscription) waitsSince() (ms uint64, ok bool) {
	for i := range s.owed {
		if since := uint64(max(0, s.owed[i].since)); !ok || since < ms {
			ms, ok = since, true
		}
	}
	return ms, ok
}

// refile keeps the indexes over all subscriptions true, after a change of what
// one is owed while it is behind, or of its cursor, mode or health.
func (l *Ledger) refile(s *Subscription) {
	if sequence, ok := s.needs(); ok {
		l.needed.note(s, sequence)
	}
	hungry := s.behind && s.mode == Active && 2*len(s.owed) <= l.ceiling(s) && (!s.breaker.open || len(s.owed) == 0)
	switch {
	case hungry == s.hungry:
	case hungry:
		l.hungry[s.Number] = s
	default:
		delete(l.hungry, s.Number)
	}
	s.hungry = hungry
}

// unfile takes one that is deleted out of the indexes.
func (l *Ledger) unfile(s *Subscription) {
	l.needed.remove(s)
	l.waiting.remove(s)
	delete(l.hungry, s.Number)
}
