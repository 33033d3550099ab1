package dispatch

// heap is a binary min-heap of values.
type heap[T any] struct {
	items []T
	less  func(a, b T) bool
}

func (h *heap[T]) push(item T) {
	h.items = append(h.items, item)
	h.up(len(h.items) - 1)
}

// remove takes out the item at index i; 0 is the least.
func (h *heap[T]) remove(i int) T {
	item, last := h.items[i], len(h.items)-1
	h.items[i] = h.items[last]
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
		h.items[i], h.items[parent] = h.items[parent], h.items[i]
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
		h.items[i], h.items[least] = h.items[least], h.items[i]
		i = least
	}
}
