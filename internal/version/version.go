// Package version says which Fanfare this binary is.
package version

import (
	"runtime/debug"
	"strings"
)

// module is the path under which the build records Fanfare's own version.
const module = "github.com/fanfare-dev/fanfare"

// development is the version of a binary that was built from no release and
// no commit, as in `go test`.
const development = "devel"

// release is set when a release is built:
//
//	go build -ldflags "-X github.com/fanfare-dev/fanfare/internal/version.release=v1.2.3"
//
//nolint:gochecknoglobals // the linker can set nothing but a package variable
var release string

// String returns the version without a leading `v`: the release's, else what
// the Go toolchain recorded from the module or the commit, else `devel`. It
// never changes while the process runs and is a token in the sense of RFC
// 9110, so that it can stand in a User-Agent header.
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return resolve(release, info)
}

func resolve(release string, info *debug.BuildInfo) string {
	v := release
	if v == "" {
		v = recorded(info)
	}
	if v == "" || v == "(devel)" {
		return development
	}
	return strings.TrimPrefix(v, "v")
}

// recorded finds Fanfare in the build information, whether it is the program
// itself or a library in another one.
func recorded(info *debug.BuildInfo) string {
	if info.Main.Path == module {
		return info.Main.Version
	}
	for _, dep := range info.Deps {
		if dep.Path == module {
			return dep.Version
		}
	}
	return ""
}
