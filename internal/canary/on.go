//go:build canary

package canary

import "os"

// On reports whether a promise is to be broken: the one that the environment
// variable FANFARE_CANARY names.
func On(name Name) bool { return os.Getenv("FANFARE_CANARY") == string(name) }
