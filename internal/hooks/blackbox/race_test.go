//go:build race

package blackbox_test

// buildFlags: the race detector looks into the binary too.
var buildFlags = []string{"-race"}
