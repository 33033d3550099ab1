package ledger

import (
	"crypto/sha256"
)

// eventKey stands for a tenant's event id in the idempotency window.
type eventKey [16]byte

func keyOf(tenant TenantID, id string) eventKey {
	sum := sha256.Sum256([]byte(string(tenant) + "\x00" + id))
	return eventKey(sum[:16])
}

// window is the ids published of late, oldest first: a ring that grows as
// needed, and the set of what is in it.
type window struct {
	ring []windowEntry // length is a power of two, or zero
	head int           // oldest
	size int
	set  map[eventKey]struct{}
}

type windowEntry struct {
	key  eventKey
	time int64 // unix ms
}

func (w *window) has(key eventKey) bool {
	_, ok := w.set[key]
	return ok
}

func (w *window) add(key eventKey, time int64) {
	if w.has(key) {
		return
	}
	if w.size == len(w.ring) {
		w.grow()
	}
	w.ring[(w.head+w.size)&(len(w.ring)-1)] = windowEntry{key, time}
	w.size++
	w.set[key] = struct{}{}
}

// trim forgets what came at or before the time, and the oldest beyond count.
func (w *window) trim(before int64, count int) {
	for w.size > 0 && (w.size > count || w.ring[w.head].time <= before) {
		delete(w.set, w.ring[w.head].key)
		w.head = (w.head + 1) & (len(w.ring) - 1)
		w.size--
	}
}

// at returns the i-th oldest entry.
func (w *window) at(i int) windowEntry {
	return w.ring[(w.head+i)&(len(w.ring)-1)]
}

func (w *window) grow() {
	bigger := make([]windowEntry, max(64, 2*len(w.ring)))
	for i := range w.size {
		bigger[i] = w.at(i)
	}
	w.ring, w.head = bigger, 0
	if w.set == nil {
		w.set = make(map[eventKey]struct{})
	}
}
