package dispatch

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
)

// A heap under random pushes and removals gives what a sorted slice gives, and
// says of each item where it is.
func TestHeap(t *testing.T) {
	type thing struct {
		key, at int
	}
	for seed := range uint64(50) {
		chance := rand.New(rand.NewPCG(seed, 1))
		h := heap[*thing]{
			less:  func(a, b *thing) bool { return a.key < b.key },
			moved: func(item *thing, i int) { item.at = i },
		}
		var want []int
		for range 400 {
			if len(want) == 0 || chance.IntN(5) < 3 {
				key := chance.IntN(100)
				h.push(&thing{key: key, at: -1})
				want = append(want, key)
				slices.Sort(want)
			} else {
				i := 0
				if chance.IntN(2) == 0 {
					i = chance.IntN(len(want))
				}
				removed := h.remove(i)
				if i == 0 && removed.key != want[0] {
					t.Fatalf("seed %d: removed %d, the least is %d", seed, removed.key, want[0])
				}
				at, found := slices.BinarySearch(want, removed.key)
				if !found {
					t.Fatalf("seed %d: removed %d, which is not in it", seed, removed.key)
				}
				want = slices.Delete(want, at, at+1)
			}
			for i, item := range h.items {
				if item.at != i {
					t.Fatalf("seed %d: item at %d was told %d", seed, i, item.at)
				}
			}
			got := make([]int, 0, len(h.items))
			for _, item := range h.items {
				got = append(got, item.key)
			}
			if len(got) > 0 && got[0] != slices.Min(got) {
				t.Fatalf("seed %d: %d is first of %v", seed, got[0], got)
			}
			slices.SortFunc(got, cmp.Compare)
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: has %v, want %v", seed, got, want)
			}
		}
	}
}
