//go:build !linux

package postgrestest

import (
	"syscall"
	"testing"
)

// Server is a PostgreSQL server.
type Server struct{}

// Start skips the test: it needs Linux.
func Start(tb testing.TB) *Server {
	tb.Helper()
	tb.Skip("needs PostgreSQL, which is started for tests on Linux only")
	return nil
}

// Run is never called.
func (*Server) Run(testing.TB) {}

// Kill is never called.
func (*Server) Kill(syscall.Signal) {}

// Settle is never called.
func (*Server) Settle(testing.TB) {}

// URL is never called.
func (*Server) URL() string { return "" }
