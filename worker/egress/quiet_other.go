//go:build !unix

package egress

import "net"

// canBeQuiet: see quiet_unix.go. Here nothing is sent directly.
const canBeQuiet = false

func quietness(net.Conn) func() bool { return func() bool { return false } }
