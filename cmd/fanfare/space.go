package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// bytesFlag is a number of bytes, as in 512MiB, 2GiB, 100MB or 1048576.
type bytesFlag struct{ value uint64 }

// String implements pflag.Value.
func (f *bytesFlag) String() string {
	if f.value == 0 {
		return "" // shown as no default
	}
	return strconv.FormatUint(f.value, 10)
}

// Type implements pflag.Value.
func (f *bytesFlag) Type() string { return "size" }

// Set implements pflag.Value.
func (f *bytesFlag) Set(s string) error {
	digits := strings.TrimRight(s, "kKMGTiB ")
	n, err := strconv.ParseUint(digits, 10, 64)
	unit, ok := bytesOf(strings.TrimSpace(s[len(digits):]))
	if err != nil || !ok || n > math.MaxInt64/unit {
		return fmt.Errorf("want a size such as 512MiB, 2GiB, 100MB or 1048576, got %q", s)
	}
	f.value = n * unit
	return nil
}

// bytesOf returns how many bytes a unit is.
func bytesOf(unit string) (uint64, bool) {
	if unit == "" || unit == "B" {
		return 1, true
	}
	const prefixes = "KMGT"
	power := strings.IndexByte(prefixes, strings.ToUpper(unit)[0]) + 1
	switch unit[1:] {
	case "iB":
		return 1 << (10 * power), power > 0
	case "B":
		return uint64(math.Pow10(3 * power)), power > 0
	}
	return 1, false
}
