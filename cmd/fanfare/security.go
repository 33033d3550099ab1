package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/fanfare-dev/fanfare/internal/access"
	"github.com/fanfare-dev/fanfare/internal/pki"
	"github.com/fanfare-dev/fanfare/internal/setting"
)

// expirySoon is how long before the end of a certificate that is said.
const expirySoon = 14 * 24 * time.Hour

// securityConfig says how members and clients prove who they are.
type securityConfig struct {
	files           pki.Files
	tokens          string // file
	insecure        bool
	insecureEngines bool
}

func (c *securityConfig) register(flags *pflag.FlagSet) {
	flags.StringVar(&c.files.CA, "tls-ca", "", "file with the cluster's authority, which vouches for members and clients; `fanfare certs ca` makes one")
	flags.StringVar(&c.files.Cert, "tls-cert", "", "file with this member's certificate; `fanfare certs node` makes one")
	flags.StringVar(&c.files.Key, "tls-key", "", "file with the certificate's key")
	flags.StringVar(&c.tokens, "tokens-file", "", "YAML file with clients' tokens, read again when it changes; `fanfare tokens create` makes entries")
	flags.BoolVar(&c.insecure, "insecure", false, "no TLS, and nobody is asked who they are: everybody who can reach this process may do everything")
	flags.BoolVar(&c.insecureEngines, "insecure-engines", false, "let etcd and NATS on other machines be spoken to in plain text")
}

func (c *securityConfig) validate() error {
	for _, file := range []struct{ name, value string }{{"tls-ca", c.files.CA}, {"tls-cert", c.files.Cert}, {"tls-key", c.files.Key}} {
		if c.insecure && file.value != "" {
			return setting.Wrong(file.name, "is given together with --insecure, which means no TLS")
		}
		if !c.insecure && file.value == "" {
			return setting.Wrong(file.name, "is empty; members show each other certificates, which `fanfare certs` makes "+
				"(--insecure does without, and lets everybody do everything)")
		}
	}
	if c.insecure && c.tokens != "" {
		return setting.Wrong("tokens-file", "is given together with --insecure, with which nobody is asked for one")
	}
	return nil
}

// plainEngines reports whether etcd and NATS may be spoken to in plain text.
func (c *securityConfig) plainEngines() bool { return c.insecure || c.insecureEngines }

// security is how a process speaks to others. The zero value speaks plain text
// and asks nobody.
type security struct {
	keeper *pki.Keeper   // nil: plain text
	guard  *access.Guard // nil: nobody is asked
}

// open reads the certificates of a member of some role, and the tokens of
// clients if a file has some.
func (c *securityConfig) open(role pki.Role, logger *slog.Logger) (*security, error) {
	if c.insecure {
		logger.Warn("INSECURE, as --insecure says: no TLS, and everybody who can reach this process may do everything")
		return new(security), nil
	}
	keeper, err := pki.Open(c.files, logger, role)
	if err != nil {
		return nil, setting.Wrong("tls-cert", "cannot be used: %v", err)
	}
	if left := time.Until(keeper.Expires()); left < expirySoon {
		logger.Warn("this member's certificate expires soon", "file", c.files.Cert, "expires", keeper.Expires())
	}
	var tokens *access.Tokens
	if c.tokens != "" {
		if tokens, err = access.OpenTokens(c.tokens, logger); err != nil {
			return nil, setting.Wrong("tokens-file", "cannot be used: %v", err)
		}
	}
	return &security{keeper, access.NewGuard(tokens)}, nil
}

// checkHost returns an error unless others who dial an address find the
// certificate there that they expect.
func (s *security) checkHost(address string) error {
	if s.keeper == nil {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("reading the address that others dial: %w", err)
	}
	if err := s.keeper.CheckHost(host); err != nil {
		return setting.Wrong("advertise-address", "is %s, for which --tls-cert is not: %v", address, err)
	}
	return nil
}

// serverOptions are how a coordinator serves gRPC.
func (s *security) serverOptions() []grpc.ServerOption {
	var options []grpc.ServerOption
	if s.keeper != nil {
		options = append(options, grpc.Creds(s.keeper.ServerCredentials()))
	}
	if s.guard != nil {
		options = append(options, grpc.ChainUnaryInterceptor(s.guard.Unary), grpc.ChainStreamInterceptor(s.guard.Stream))
	}
	return options
}

// dialOptions are how members dial coordinators.
func (s *security) dialOptions() []grpc.DialOption {
	if s.keeper == nil {
		return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	return []grpc.DialOption{grpc.WithTransportCredentials(s.keeper.DialCredentials())}
}

// overHTTP has what is served over HTTP go through TLS.
func (s *security) overHTTP(listener net.Listener) net.Listener {
	if s.keeper == nil {
		return listener
	}
	return tls.NewListener(listener, s.keeper.Server())
}

// guardHTTP wraps what is served over HTTP.
func (s *security) guardHTTP(next http.Handler) http.Handler {
	if s.guard == nil {
		return next
	}
	return s.guard.HTTP(next)
}

// scheme begins the URLs of what is served over HTTP.
func (s *security) scheme() string {
	if s.keeper == nil {
		return "http://"
	}
	return "https://"
}
