package version

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestResolve(t *testing.T) {
	program := func(version string) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Path: module, Version: version}}
	}
	library := &debug.BuildInfo{
		Main: debug.Module{Path: "example.com/shop", Version: "v9.9.9"},
		Deps: []*debug.Module{{Path: "example.com/other", Version: "v8.8.8"}, {Path: module, Version: "v1.4.0"}},
	}
	tests := []struct {
		name    string
		release string
		info    *debug.BuildInfo
		want    string
	}{
		{"the release wins", "v1.2.3", program("v0.0.1"), "1.2.3"},
		{"go install of a version", "", program("v1.3.0"), "1.3.0"},
		{"a commit", "", program("v0.0.0-20260102030405-abcdef012345+dirty"), "0.0.0-20260102030405-abcdef012345+dirty"},
		{"no version control", "", program("(devel)"), "devel"},
		{"a library in another program", "", library, "1.4.0"},
		{"no build information", "", &debug.BuildInfo{}, "devel"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := resolve(test.release, test.info); got != test.want {
				t.Errorf("resolve(%q) = %q, want %q", test.release, got, test.want)
			}
		})
	}
}

func TestStringIsToken(t *testing.T) {
	if got := String(); got == "" || strings.ContainsAny(got, "()/ \t\"") {
		t.Errorf("String() = %q, want a token", got)
	}
}
