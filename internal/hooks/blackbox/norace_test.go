//go:build !race

package blackbox_test

var buildFlags []string
