//go:build unix

package egress

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"time"
)

// canBeQuiet: it can be told whether the other end of a connection has closed
// it, without waiting for anything.
const canBeQuiet = true

// quietness returns what reports whether the other end of an idle connection
// has neither closed it nor said anything. Nobody may read from it meanwhile.
func quietness(conn net.Conn) func() bool {
	if secure, ok := conn.(*tls.Conn); ok {
		socket := quietness(secure.NetConn())
		return func() bool { return socket() && quietBuffers(secure) }
	}
	if counted, ok := conn.(*countedConn); ok {
		conn = counted.Conn
	}
	if socket, ok := conn.(syscall.Conn); ok {
		raw, err := socket.SyscallConn()
		if err != nil {
			return func() bool { return false }
		}
		var failure error
		read := func(fd uintptr) bool {
			var one [1]byte
			n, err := syscall.Read(int(fd), one[:])
			if failure = err; err == nil && n >= 0 {
				failure = errNotQuiet
			}
			return true // never wait
		}
		return func() bool {
			err := raw.Read(read)
			return err == nil && (errors.Is(failure, syscall.EAGAIN) || errors.Is(failure, syscall.EWOULDBLOCK))
		}
	}
	return func() bool { return quietBuffers(conn) }
}

var errNotQuiet = errors.New("the connection is closed, or something was said")

// quietBuffers is for what is in memory: connections like those of net.Pipe,
// which tell that they are closed before they tell that it is too late, and
// what a TLS connection has received and not passed on.
func quietBuffers(conn net.Conn) bool {
	if conn.SetReadDeadline(time.Unix(1, 0)) != nil {
		return false
	}
	var one [1]byte
	_, err := conn.Read(one[:])
	failure, ok := errors.AsType[net.Error](err)
	return ok && failure.Timeout() && conn.SetReadDeadline(time.Time{}) == nil
}
