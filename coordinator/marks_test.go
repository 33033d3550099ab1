package coordinator

import (
	"bytes"
	"sync"
	"testing"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/internal/cluster"
)

func TestMarks(t *testing.T) {
	m := marks{cluster.NewMemory().Client()}
	check := func(partition int, want uint64) {
		t.Helper()
		mark, err := m.Mark(t.Context(), partition)
		if err != nil || mark.Sequence != want || want > 0 && !bytes.Equal(mark.Hash, hashOf(want)) {
			t.Errorf("the mark of partition %d is %+v, %v, want record %d", partition, mark, err, want)
		}
	}
	set := func(partition int, sequence uint64) {
		t.Helper()
		if err := m.SetMark(t.Context(), partition, lead.Mark{Sequence: sequence, Hash: hashOf(sequence)}); err != nil {
			t.Error(err)
		}
	}
	check(1, 0)
	set(1, 7)
	check(1, 7)
	set(1, 5) // by one who does not know that it was overtaken
	check(1, 7)
	set(11, 3) // another key that begins the same
	check(1, 7)
	check(11, 3)
	var setting sync.WaitGroup
	for sequence := range uint64(50) {
		setting.Go(func() { set(1, 10+sequence) })
	}
	setting.Wait()
	check(1, 59)
}

func hashOf(sequence uint64) []byte { return bytes.Repeat([]byte{byte(sequence)}, 32) }
