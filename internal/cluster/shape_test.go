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

// A cluster keeps the key of secrets it was made with.
func TestEnsureSecrets(t *testing.T) {
	store := cluster.NewMemory().Client()
	for range 2 {
		if err := cluster.EnsureSecrets(t.Context(), store, "0123456789abcdef"); err != nil {
			t.Fatal(err)
		}
	}
	err := cluster.EnsureSecrets(t.Context(), store, "fedcba9876543210")
	differs, ok := errors.AsType[*cluster.SecretsError](err)
	if !ok || differs.Have != "0123456789abcdef" || differs.Want != "fedcba9876543210" {
		t.Errorf("another key: %v", err)
	}
}
