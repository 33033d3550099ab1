package cluster

import (
	"slices"
	"strings"
)

// view is the keys of a store, or of one prefix of it, in order. It is made
// for being changed a little and handed out whole, again and again: after
// share, the entries given out are never written to.
type view struct {
	entries []Entry // sorted by key, each key once
	shared  bool    // entries have been given out: copy before changing
}

// find returns where key is, or where it belongs.
func (v *view) find(key string) (int, bool) {
	return slices.BinarySearchFunc(v.entries, key, func(e Entry, key string) int {
		return strings.Compare(e.Key, key)
	})
}

// get returns the entry of key.
func (v *view) get(key string) (Entry, bool) {
	at, found := v.find(key)
	if !found {
		return Entry{}, false
	}
	return v.entries[at], true
}

// put adds e, in place of the entry with the same key if there is one.
func (v *view) put(e Entry) {
	v.own()
	at, found := v.find(e.Key)
	if found {
		v.entries[at] = e
		return
	}
	v.entries = slices.Insert(v.entries, at, e)
}

// remove takes key out, if it is there.
func (v *view) remove(key string) {
	if at, found := v.find(key); found {
		v.own()
		v.entries = slices.Delete(v.entries, at, at+1)
	}
}

// under returns a copy of the entries whose keys begin with prefix.
func (v *view) under(prefix string) []Entry {
	from, _ := v.find(prefix)
	to := from
	for to < len(v.entries) && strings.HasPrefix(v.entries[to].Key, prefix) {
		to++
	}
	return slices.Clone(v.entries[from:to])
}

// share gives out the entries as they are now.
func (v *view) share() []Entry {
	v.shared = true
	return v.entries
}

// own makes entries safe to change.
func (v *view) own() {
	if v.shared {
		v.entries = slices.Clone(v.entries)
		v.shared = false
	}
}

// sameKeys reports whether two views have the same keys at the same revisions,
// which makes them the same view of one store.
func sameKeys(a, b []Entry) bool {
	return slices.EqualFunc(a, b, func(x, y Entry) bool {
		return x.Key == y.Key && x.Revision == y.Revision
	})
}
