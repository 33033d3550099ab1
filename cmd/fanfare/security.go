package main

import (
	"log/slog"
	"net"
	"net/http"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/fanfare-dev/fanfare/internal/setting"
)

// securityConfig says how members and clients prove who they are.
type securityConfig struct {
	insecure        bool
	insecureEngines bool
}

func (c *securityConfig) register(flags *pflag.FlagSet) {
	flags.BoolVar(&c.insecure, "insecure", false, "no TLS, and nobody is asked who they are: everybody who can reach this process may do everything")
	flags.BoolVar(&c.insecureEngines, "insecure-engines", false, "let etcd and NATS on other machines be spoken to in plain text")
}

func (c *securityConfig) validate() error {
	if !c.insecure {
		return setting.Wrong("insecure", "is not given, and this build knows no other way: members of a cluster do not speak TLS yet")
	}
	return nil
}

// plainEngines reports whether etcd and NATS may be spoken to in plain text.
func (c *securityConfig) plainEngines() bool { return c.insecure || c.insecureEngines }

// security is how a process speaks to others. The zero value speaks plain text
// and asks nobody.
type security struct{}

// warn says so if a process is open to everybody.
func (c *securityConfig) warn(logger *slog.Logger) {
	if c.insecure {
		logger.Warn("INSECURE, as --insecure says: no TLS, and everybody who can reach this process may do everything")
	}
}

func (s *security) serverOptions() []grpc.ServerOption { return nil }

func (s *security) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
}

func (s *security) overHTTP(listener net.Listener) net.Listener { return listener }

// scheme begins the URLs of what is served over HTTP.
func (s *security) scheme() string { return "http://" }

// guardHTTP wraps what is served over HTTP.
func (s *security) guardHTTP(next http.Handler) http.Handler { return next }
