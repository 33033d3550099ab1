package ledger

import (
	"crypto/sha256"
	"encoding/binary"
)

// eventKey stands for a tenant's event id in the idempotency window.
type eventKey [16]byte

func keyOf(tenant TenantID, id string) eventKey {
	sum := sha256.Sum256([]byte(string(tenant) + "\x00" + id))
	return eventKey(sum[:16])
}

// home is where a search for the key begins. The key is a hash already.
func (k *eventKey) home() int { return int(binary.LittleEndian.Uint32(k[:])) }

// window is the ids published of late, oldest first: a ring that grows as
// needed, and a table of what is in it. There may be a million, twice in each
// leader, and so it is not a map, which takes three times the space.
type window struct {
	ring  []windowEntry
	head  int // oldest
	size  int
	table []uint32 // index in the ring plus one; 0: free. Linear probing; its length is a power of two
}

type windowEntry struct {
	key  eventKey
	time int64 // unix ms
}

// Sizes of a window.
const (
	windowSmallest = 64
	// windowDoubles is up to which size the ring doubles. Then it grows by an
	// eighth: a million entries need no room for a second million.
	windowDoubles = 1 << 16
)

func (w *window) has(key eventKey) bool {
	_, found := w.search(key)
	return found
}

// search returns where in the table a key is, or belongs.
func (w *window) search(key eventKey) (at int, found bool) {
	if len(w.table) == 0 {
		return 0, false
	}
	for at = key.home() & (len(w.table) - 1); w.table[at] != 0; at = (at + 1) & (len(w.table) - 1) {
		if w.ring[w.table[at]-1].key == key {
			return at, true
		}
	}
	return at, false
}

func (w *window) add(key eventKey, time int64) {
	if w.has(key) {
		return
	}
	if w.size == len(w.ring) {
		w.grow()
	}
	i := w.index(w.size)
	w.ring[i] = windowEntry{key, time}
	w.size++
	at, _ := w.search(key)
	w.table[at] = uint32(i) + 1 //nolint:gosec // the count is limited by a uint32
}

// trim forgets what came at or before the time, and the oldest beyond count.
func (w *window) trim(before int64, count int) {
	for w.size > 0 && (w.size > count || w.ring[w.head].time <= before) {
		w.remove(w.ring[w.head].key)
		w.head = w.index(1)
		w.size--
	}
}

// remove takes a key out of the table, and moves up what was put behind it for
// want of its place.
func (w *window) remove(key eventKey) {
	free, found := w.search(key)
	if !found {
		return
	}
	mask := len(w.table) - 1
	for at := (free + 1) & mask; w.table[at] != 0; at = (at + 1) & mask {
		home := w.ring[w.table[at]-1].key.home()
		if (at-home)&mask >= (at-free)&mask {
			w.table[free] = w.table[at]
			free = at
		}
	}
	w.table[free] = 0
}

// index returns where in the ring the i-th oldest entry is, or will be.
func (w *window) index(i int) int {
	if i += w.head; i >= len(w.ring) {
		i -= len(w.ring)
	}
	return i
}

// at returns the i-th oldest entry.
func (w *window) at(i int) windowEntry { return w.ring[w.index(i)] }

func (w *window) grow() {
	length := max(windowSmallest, 2*len(w.ring))
	if len(w.ring) >= windowDoubles {
		length = len(w.ring) + len(w.ring)/8
	}
	w.resize(length)
}

// reserve makes room for so many entries, if there is less.
func (w *window) reserve(entries int) {
	if entries > len(w.ring) {
		w.resize(max(windowSmallest, entries))
	}
}

func (w *window) resize(length int) {
	bigger := make([]windowEntry, length)
	for i := range w.size {
		bigger[i] = w.at(i)
	}
	slots := windowSmallest
	for slots < length+length/2 {
		slots *= 2
	}
	w.ring, w.head, w.table = bigger, 0, make([]uint32, slots)
	for i := range w.size {
		at, _ := w.search(w.ring[i].key)
		w.table[at] = uint32(i) + 1
	}
}
