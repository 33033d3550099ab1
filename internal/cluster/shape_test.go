package cluster_test

import (
	"errors"
	"testing"

	"github.com/fanfare-dev/fanfare/internal/cluster"
)

func TestEnsureShape(t *testing.T) {
	store := cluster.NewMemory().Client()
	made := cluster.Shape{Partitions: 4, Slots: 16}
	for range 2 { // the first one makes it, the second finds it
		if err := cluster.EnsureShape(t.Context(), store, made); err != nil {
			t.Fatal(err)
		}
	}
	told := cluster.Shape{Partitions: 8, Slots: 16}
	err := cluster.EnsureShape(t.Context(), store, told)
	if got, ok := errors.AsType[*cluster.ShapeError](err); !ok || got.Have != made || got.Want != told {
		t.Errorf("EnsureShape with another shape gives %v", err)
	}
	if err := cluster.EnsureShape(t.Context(), store, made); err != nil {
		t.Errorf("the shape was changed by asking for another: %v", err)
	}
}
