package dispatch

import "slices"

// fewItems is up to how many items a heap's memory grows by an eighth; beyond, it
// grows by a quarter. There are a hundred thousand small ones, of what waits for
// the dead, so to double it would cost more than to move it more often.
const fewItems = 64

// growth is how many more items to make room for.
func growth(items int) int {
	if items < fewItems {
		return 1 + items/8
	}
	return items / 4
}

// heap is a binary min-heap of values.
type heap[T any] struct {
	items []T
	less  func(a, b T) bool
	moved func(item T, i int) // told where an item is whenever that changes; may be nil
}

func (h *heap[T]) push(item T) {
	if n := len(h.items); n == cap(h.items) {
		h.items = append(slices.Grow([]T(nil), n+growth(n)), h.items...)
	}
	h.items = append(h.items, item)
	h.set(len(h.items)-1, item)
	h.up(len(h.items) - 1)
}

func (h *heap[T]) set(i int, item T) {
	h.items[i] = item
	if h.moved != nil {
		h.moved(item, i)
	}
}

func (h *heap[T]) swap(i, j int) {
	a, b := h.items[i], h.items[j]
	h.set(i, b)
	h.set(j, a)
}

// remove takes out the item at index i; 0 is the least.
func (h *heap[T]) remove(i int) T {
	item, last := h.items[i], len(h.items)-1
	h.set(i, h.items[last])
	clear(h.items[last:])
	h.items = h.items[:last]
	if i < last {
		h.down(i)
		h.up(i)
	}
	return item
}

func (h *heap[T]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(h.items[i], h.items[parent]) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h *heap[T]) down(i int) {
	for {
		least := i
		for _, child := range [2]int{2*i + 1, 2*i + 2} {
			if child < len(h.items) && h.less(h.items[child], h.items[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}
