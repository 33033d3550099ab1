package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/fanfare-dev/fanfare/internal/setting"
	"github.com/fanfare-dev/fanfare/internal/version"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	addressVariable = "FANFARE_ADDRESS"
	tenantVariable  = "FANFARE_TENANT"
	tlsVariable     = "FANFARE_TLS"
	tokenVariable   = "FANFARE_TOKEN"

	defaultPort    = "7400"
	defaultAddress = "127.0.0.1:" + defaultPort
	defaultTenant  = "default"
	defaultTimeout = 30 * time.Second

	// pingInterval and pingTimeout find out that a watched server is gone
	// without a word, as after this machine has slept.
	pingInterval = 20 * time.Second
	pingTimeout  = 10 * time.Second

	// maxAnswerBytes bounds one answer of the server. The largest there is, a
	// page of 1,000 attempts with 4 KiB of response body each, stays below.
	maxAnswerBytes = 16 << 20
)

// settings are the flags that all client commands share. They are filled in
// while the command line is parsed and not changed after that.
type settings struct {
	address string
	tenant  string
	timeout time.Duration
	format  format

	tls       bool // with the system's authorities
	tlsCA     string
	tlsCert   string
	tlsKey    string
	token     string
	tokenFile string
}

// register adds the shared flags to a client command and those below it.
func (s *settings) register(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&s.address, "address", cmp.Or(os.Getenv(addressVariable), defaultAddress),
		"where the coordinator serves gRPC, host:port or unix:path (env "+addressVariable+")")
	flags.StringVar(&s.tenant, "tenant", cmp.Or(os.Getenv(tenantVariable), defaultTenant),
		"the tenant to act in (env "+tenantVariable+")")
	flags.DurationVar(&s.timeout, "timeout", defaultTimeout, "how long one call may take")
	flags.BoolVar(&s.tls, "tls", os.Getenv(tlsVariable) == "true", "speak TLS; implied by the files (env "+tlsVariable+"=true)")
	for _, file := range []struct {
		to         *string
		name, what string
	}{
		{&s.tlsCA, "tls-ca", "file with the cluster's authority (default the system's)"},
		{&s.tlsCert, "tls-cert", "file with a client certificate"},
		{&s.tlsKey, "tls-key", "file with the certificate's key"},
		{&s.tokenFile, "token-file", "file with the token to show"},
	} {
		flags.StringVar(file.to, file.name, os.Getenv(setting.Variable(file.name)), file.what+" (env "+setting.Variable(file.name)+")")
	}
	// The variable is read when the token is needed: as the default of the
	// flag it would stand in the help.
	flags.StringVar(&s.token, "token", "", "token to show, which others on this machine may see here (env "+tokenVariable+")")
	s.format = formatTable
	flags.VarP(&s.format, "output", "o", "table for people, json for programs")
	complete(cmd, "output", string(formatTable), string(formatJSON))
}

// client is what a client command works with: a connection, the tenant, and
// where to read and write.
type client struct {
	printer

	conn   *grpc.ClientConn
	tenant string // resource name, tenants/{tenant}
	stdin  io.Reader
	stderr io.Writer
}

// action is what a client command does once its flags are parsed.
type action func(ctx context.Context, c *client, args []string) error

// run makes an action the body of a cobra command. It opens the connection
// before and closes it after.
func (s *settings) run(do action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		tenant, err := tenantName(s.tenant)
		if err != nil {
			return err
		}
		conn, err := s.dial()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		return do(cmd.Context(), &client{
			printer: printer{out: cmd.OutOrStdout(), format: s.format},
			conn:    conn,
			tenant:  tenant,
			stdin:   cmd.InOrStdin(),
			stderr:  cmd.ErrOrStderr(),
		}, args)
	}
}

// dial is the one place that decides how the client reaches a coordinator. It
// does not wait for the connection; calls do.
func (s *settings) dial() (*grpc.ClientConn, error) {
	identity, err := s.identity()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target(s.address), append(identity,
		grpc.WithUserAgent("fanfare-cli/"+version.String()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes)),
		grpc.WithChainUnaryInterceptor(limitTime(s.timeout)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: pingTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay:  firstRetryWait,
				Multiplier: retryWaitGrowth,
				Jitter:     retryWaitJitter,
				MaxDelay:   longestRetryWait,
			},
			MinConnectTimeout: defaultTimeout,
		}),
	)...)
	if err != nil {
		return nil, usagef("--address: %w", err)
	}
	return conn, nil
}

// identity returns how the client proves who it is: over TLS, by a certificate
// or a token, or not at all.
func (s *settings) identity() ([]grpc.DialOption, error) {
	token, err := s.bearer()
	if err != nil {
		return nil, err
	}
	if (s.tlsCert == "") != (s.tlsKey == "") {
		return nil, usagef("--tls-cert and --tls-key belong together; one of them is missing")
	}
	if !s.tls && s.tlsCA == "" && s.tlsCert == "" {
		if token != "" {
			return nil, usagef("a token is not sent in plain text: give --tls-ca, or --tls for the system's authorities")
		}
		return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, nil
	}
	files := engineTLS{ca: s.tlsCA, cert: s.tlsCert, key: s.tlsKey}
	config, err := files.config()
	if err != nil {
		return nil, usagef("--tls-ca %w", err)
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(config))}
	if token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearerToken(token)))
	}
	return options, nil
}

// bearer returns the token that was given, or "".
func (s *settings) bearer() (string, error) {
	if s.token != "" || s.tokenFile == "" {
		return cmp.Or(s.token, os.Getenv(tokenVariable)), nil
	}
	text, err := os.ReadFile(s.tokenFile)
	if err != nil {
		return "", usagef("--token-file: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// bearerToken is shown with every call, over TLS only.
type bearerToken string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (t bearerToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (bearerToken) RequireTransportSecurity() bool { return true }

// limitTime gives every unary call a deadline. Streams have none: they end
// when the user says so.
func limitTime(timeout time.Duration) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
		invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return invoke(ctx, method, req, reply, cc, opts...)
	}
}

// target completes an address that lacks the port. What names a scheme, as
// `unix:/run/fanfare.sock` or `dns:///fanfare:7400`, is left alone.
func target(address string) string {
	if strings.HasPrefix(address, "unix:") || strings.Contains(address, "://") {
		return address
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return net.JoinHostPort(strings.Trim(address, "[]"), defaultPort)
	}
	return address
}

// tenantName returns the resource name of a tenant given by its id or name.
func tenantName(tenant string) (string, error) {
	id := strings.TrimPrefix(tenant, "tenants/")
	if id == "" || strings.Contains(id, "/") {
		return "", usagef("%q is not a tenant: want an id or tenants/ID", tenant)
	}
	return "tenants/" + id, nil
}

// resourceName returns the full name of a resource of the given collection:
// an id belongs to the client's tenant, a full name says for itself.
func (c *client) resourceName(collection, id string) (string, error) {
	if id != "" && !strings.Contains(id, "/") {
		return c.tenant + "/" + collection + "/" + id, nil
	}
	parts := strings.Split(id, "/")
	if len(parts) != 4 || parts[0] != "tenants" || parts[1] == "" || parts[2] != collection || parts[3] == "" {
		return "", usagef("%q is not one of the %s: want an id or tenants/TENANT/%s/ID", id, collection, collection)
	}
	return id, nil
}

// each does something to resources of a collection, given by id or full name,
// one after the other. The first error ends it.
func (c *client) each(collection string, ids []string, do func(name string) error) error {
	for _, id := range ids {
		name, err := c.resourceName(collection, id)
		if err != nil {
			return err
		}
		if err := do(name); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) events() fanfarev1.EventServiceClient {
	return fanfarev1.NewEventServiceClient(c.conn)
}

func (c *client) subscriptions() fanfarev1.SubscriptionServiceClient {
	return fanfarev1.NewSubscriptionServiceClient(c.conn)
}

func (c *client) deliveries() fanfarev1.DeliveryServiceClient {
	return fanfarev1.NewDeliveryServiceClient(c.conn)
}

func (c *client) tenants() fanfarev1.TenantServiceClient {
	return fanfarev1.NewTenantServiceClient(c.conn)
}

func (c *client) cluster() fanfarev1.ClusterServiceClient {
	return fanfarev1.NewClusterServiceClient(c.conn)
}

// note tells the user something that is not part of the output.
func (c *client) note(format string, args ...any) {
	fmt.Fprintf(c.stderr, format+"\n", args...)
}
