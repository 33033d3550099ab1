package cluster

import (
	"context"
	"encoding/json"
	"fmt"
)

// ShapeKey holds the Shape, without a lease.
const ShapeKey = "shape"

// Shape is what a cluster is made with and keeps: it decides which log a
// tenant is in, and which shard a subscription.
type Shape struct {
	Partitions int `json:"partitions"`
	Slots      int `json:"slots"` // shards of a partition
}

// ShapeError says that a process was told another shape than the cluster has.
type ShapeError struct{ Have, Want Shape }

// Error names the difference.
func (e *ShapeError) Error() string {
	return fmt.Sprintf("the cluster was made with %d partitions of %d shards, which cannot change; this process was told %d of %d",
		e.Have.Partitions, e.Have.Slots, e.Want.Partitions, e.Want.Slots)
}

// EnsureShape gives a new cluster its shape, and compares it with that of one
// that exists: *ShapeError if they differ.
func EnsureShape(ctx context.Context, store Store, want Shape) error {
	value, err := json.Marshal(want)
	if err != nil {
		return fmt.Errorf("encoding the shape: %w", err)
	}
	if _, created, err := store.Put(ctx, ShapeKey, value, NoLease, 0); err != nil || created {
		return err
	}
	entries, err := store.List(ctx, ShapeKey)
	if err != nil {
		return fmt.Errorf("reading the shape: %w", err)
	}
	var have Shape
	if err := json.Unmarshal(find(entries, ShapeKey).Value, &have); err != nil {
		return fmt.Errorf("decoding the shape: %w", err)
	}
	if have != want {
		return &ShapeError{have, want}
	}
	return nil
}

// SecretsKey holds the fingerprint of the key that the secrets in the logs are
// sealed with, without a lease.
const SecretsKey = "secrets"

// SecretsError says that a process has another key of secrets than the cluster:
// it could not sign what others have stored, nor they what it stores.
type SecretsError struct{ Have, Want string } // fingerprints

// Error tells the two apart.
func (e *SecretsError) Error() string {
	const enough = 12
	return fmt.Sprintf("the cluster's secrets are sealed with the key of fingerprint %.*s, this process was given %.*s",
		enough, e.Have, enough, e.Want)
}

// EnsureSecrets gives a new cluster the fingerprint of its key of secrets, and
// compares it with that of one that exists: *SecretsError if they differ.
func EnsureSecrets(ctx context.Context, store Store, fingerprint string) error {
	if _, created, err := store.Put(ctx, SecretsKey, []byte(fingerprint), NoLease, 0); err != nil || created {
		return err
	}
	entries, err := store.List(ctx, SecretsKey)
	if err != nil {
		return fmt.Errorf("reading the fingerprint of the key of secrets: %w", err)
	}
	if have := string(find(entries, SecretsKey).Value); have != fingerprint {
		return &SecretsError{have, fingerprint}
	}
	return nil
}
