package ledger

import (
	"slices"
	"strings"
)

// index finds the subscriptions that want an event type: a tree of the
// patterns' segments. A look-up costs what the type's segments and its matches
// cost, not what there are subscriptions.
type index struct {
	all  []Number // rising: those that want every type
	root node
}

// node is the end of a pattern's first few segments.
type node struct {
	exact map[string]*node // by next segment
	star  *node            // any one next segment
	rest  []Number         // rising: patterns that end here with `**`
	here  []Number         // rising: patterns that end here
}

func (x *index) add(n Number, patterns []string) {
	if everything(patterns) {
		insert(&x.all, n)
		return
	}
	for _, p := range patterns {
		insert(x.root.place(p), n)
	}
}

func (x *index) remove(n Number, patterns []string) {
	if everything(patterns) {
		drop(&x.all, n)
		return
	}
	for _, p := range patterns {
		x.root.remove(n, p)
	}
}

// match returns the subscriptions that want a type, in rising order. The
// slice belongs to the index until its next change.
func (x *index) match(eventType string) []Number {
	found := matches{lists: make([][]Number, 0, 4)}
	found.add(x.all)
	x.root.find(eventType, true, &found)
	switch len(found.lists) {
	case 0:
		return nil
	case 1:
		return found.lists[0]
	}
	merged := slices.Concat(found.lists...)
	slices.Sort(merged)
	return slices.Compact(merged)
}

// atMost returns how many subscriptions want a type, counting one as often as
// its patterns do.
func (x *index) atMost(eventType string) int {
	found := matches{lists: make([][]Number, 0, 4)}
	x.root.find(eventType, true, &found)
	n := len(x.all)
	for _, list := range found.lists {
		n += len(list)
	}
	return n
}

type matches struct{ lists [][]Number }

func (m *matches) add(list []Number) {
	if len(list) > 0 {
		m.lists = append(m.lists, list)
	}
}

// find collects what matches rest, the segments of the type below this node;
// more is false when there are none left.
func (d *node) find(rest string, more bool, found *matches) {
	if !more {
		found.add(d.here)
		return
	}
	found.add(d.rest)
	segment, rest, more := strings.Cut(rest, ".")
	if next := d.exact[segment]; next != nil {
		next.find(rest, more, found)
	}
	if d.star != nil {
		d.star.find(rest, more, found)
	}
}

// place returns the list that a pattern's subscriptions are in, and makes the
// nodes on the way.
func (d *node) place(pattern string) *[]Number {
	for {
		segment, rest, more := strings.Cut(pattern, ".")
		if segment == "**" {
			return &d.rest
		}
		next := d.next(segment)
		if next == nil {
			next = &node{}
			d.setNext(segment, next)
		}
		if !more {
			return &next.here
		}
		d, pattern = next, rest
	}
}

// remove takes a subscription off a pattern's list, and the nodes that held
// nothing else.
func (d *node) remove(n Number, pattern string) {
	segment, rest, more := strings.Cut(pattern, ".")
	if segment == "**" {
		drop(&d.rest, n)
		return
	}
	next := d.next(segment)
	if next == nil {
		return
	}
	if more {
		next.remove(n, rest)
	} else {
		drop(&next.here, n)
	}
	if next.empty() {
		d.setNext(segment, nil)
	}
}

func (d *node) next(segment string) *node {
	if segment == "*" {
		return d.star
	}
	return d.exact[segment]
}

func (d *node) setNext(segment string, next *node) {
	switch {
	case segment == "*":
		d.star = next
	case next == nil:
		delete(d.exact, segment)
	default:
		if d.exact == nil {
			d.exact = make(map[string]*node)
		}
		d.exact[segment] = next
	}
}

func (d *node) empty() bool {
	return len(d.exact) == 0 && d.star == nil && len(d.rest) == 0 && len(d.here) == 0
}

func insert(list *[]Number, n Number) {
	if i, found := slices.BinarySearch(*list, n); !found {
		*list = slices.Insert(*list, i, n)
	}
}

func drop(list *[]Number, n Number) {
	if i, found := slices.BinarySearch(*list, n); found {
		*list = slices.Delete(*list, i, i+1)
	}
}
