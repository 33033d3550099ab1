package main

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/fanfare-dev/fanfare/internal/sealed"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// startEtcd runs an etcd of one member on loopback until the test ends, and
// returns its endpoint. change may alter how.
func startEtcd(t *testing.T, scheme string, change func(*embed.Config)) string {
	t.Helper()
	anyPort := url.URL{Scheme: scheme, Host: "127.0.0.1:0"}
	config := embed.NewConfig()
	config.Dir = t.TempDir()
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{anyPort}, []url.URL{anyPort}
	config.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config.AdvertisePeerUrls = config.ListenPeerUrls
	config.InitialCluster = config.Name + "=" + config.ListenPeerUrls[0].String()
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	config.TickMs, config.ElectionMs = 50, 250
	if change != nil {
		change(config)
	}
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	select {
	case <-etcd.Server.ReadyNotify():
	case <-time.After(patience):
		t.Fatal("etcd is not ready")
	}
	return scheme + "://" + etcd.Clients[0].Addr().String()
}

// startNATS runs a NATS server on loopback until the test ends, and returns
// its URL. change may alter how.
func startNATS(t *testing.T, change func(*natsserver.Options)) string {
	t.Helper()
	return startNATSServer(t, change).ClientURL()
}

func startNATSServer(t *testing.T, change func(*natsserver.Options)) *natsserver.Server {
	t.Helper()
	options := &natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: t.TempDir(), SyncAlways: true,
	}
	if change != nil {
		change(options)
	}
	nats, err := natsserver.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	t.Cleanup(func() {
		nats.Shutdown()
		nats.WaitForShutdown()
	})
	if !nats.ReadyForConnections(patience) {
		t.Fatal("NATS is not ready")
	}
	return nats
}

// member is a coordinator or a worker that runs as a process of its own.
type member struct{ dev }

// startMember runs a role and waits until it says where it serves.
func startMember(t *testing.T, role, id string, args ...string) *member {
	t.Helper()
	args = append([]string{role, "--id", id, "--http-address", "127.0.0.1:0", "--log-format", "json", "--lease-ttl", "3s"}, args...)
	if role == "coordinator" {
		args = append(args, "--grpc-address", "127.0.0.1:0", "--data-dir", t.TempDir())
	}
	return &member{dev{process: startProcess(t, args...)}}
}

// awaitStart waits for what a coordinator says first.
func (m *member) awaitStart(t *testing.T) {
	t.Helper()
	m.awaitServing(t, `"msg":"starting","id":"[^"]+","grpc":"([^"]+)","http":"([^"]+)"`)
}

// publishAnywhere publishes an event by the first of the coordinators that
// leads its partition.
func publishAnywhere(t *testing.T, request *fanfarev1.PublishRequest, coordinators ...*member) {
	t.Helper()
	eventually(t, "one of the coordinators takes an event", func() bool {
		for _, c := range coordinators {
			_, err := c.events().Publish(t.Context(), request)
			if err == nil {
				return true
			}
			if codeOf(err) != codes.Unavailable {
				t.Fatal(err)
			}
		}
		return false
	})
}

// subscribeAnywhere is publishAnywhere for a subscription.
func subscribeAnywhere(t *testing.T, s *fanfarev1.Subscription, coordinators ...*member) *fanfarev1.Subscription {
	t.Helper()
	var created *fanfarev1.Subscription
	eventually(t, "one of the coordinators takes a subscription", func() bool {
		for _, c := range coordinators {
			var err error
			created, err = c.subscriptions().CreateSubscription(t.Context(),
				&fanfarev1.CreateSubscriptionRequest{Parent: demoTenant, Subscription: s})
			if err == nil {
				return true
			}
			if codeOf(err) != codes.Unavailable {
				t.Fatal(err)
			}
		}
		return false
	})
	return created
}

// makeKey makes a key of secrets and returns its file.
func makeKey(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secrets.key")
	if err := writeNew(file, sealed.NewKey(), privateMode); err != nil {
		t.Fatal(err)
	}
	return file
}

// Coordinators and workers as processes of their own, with --insecure: events
// come through, and the log says loudly that it is open to everybody.
func TestInsecureCluster(t *testing.T) {
	t.Parallel()
	etcd, nats := startEtcd(t, "http", nil), startNATS(t, nil)
	key := makeKey(t)
	shared := []string{"--insecure", "--etcd-endpoints", etcd}
	leading := append([]string{
		"--nats-url", nats, "--nats-replicas", "1", "--secrets-key-file", key, "--partitions", "4", "--slots", "4",
		"--egress-allow-http", "--egress-allow-loopback",
	}, shared...)
	sending := append([]string{"--egress-allow-http", "--egress-allow-loopback"}, shared...)
	a, b := startMember(t, "coordinator", "a", leading...), startMember(t, "coordinator", "b", leading...)
	workers := []*member{startMember(t, "worker", "w1", sending...), startMember(t, "worker", "w2", sending...)}
	a.awaitStart(t)
	b.awaitStart(t)

	r := newReceiver(t, nil)
	created := subscribeAnywhere(t, &fanfarev1.Subscription{Url: r.url + "/hook"}, a, b)
	publishAnywhere(t, &fanfarev1.PublishRequest{Parent: demoTenant, Events: []*fanfarev1.Event{
		{Id: "e1", Type: "order.created", Data: []byte(`{}`)},
	}}, a, b)
	eventually(t, "the event arrives", func() bool { return r.arrivals("/hook")["e1"] == 1 })
	r.verify(t, "/hook", created.GetSecret())

	for _, m := range append(workers, a, b) {
		if log := m.stderr.String(); !strings.Contains(log, "INSECURE") {
			t.Errorf("nothing says that it is insecure:\n%s", log)
		}
		m.stop(t)
	}
}

// A coordinator with another key of secrets than the cluster's does not serve.
func TestAnotherSecretsKeyIsRefused(t *testing.T) {
	t.Parallel()
	etcd, nats := startEtcd(t, "http", nil), startNATS(t, nil)
	leading := func(key string) []string {
		return []string{
			"--insecure", "--etcd-endpoints", etcd, "--nats-url", nats, "--nats-replicas", "1", "--partitions", "1",
			"--secrets-key-file", key,
		}
	}
	first := startMember(t, "coordinator", "a", leading(makeKey(t))...)
	first.awaitStart(t)
	subscribeAnywhere(t, &fanfarev1.Subscription{Url: "https://example.com/"}, first)
	other := startMember(t, "coordinator", "b", leading(makeKey(t))...)
	if code := other.wait(t); code != exitFailed || !strings.Contains(other.stderr.String(), "--secrets-key-file holds another key") {
		t.Errorf("exit code %d:\n%s", code, other.stderr.String())
	}
	missing := startMember(t, "coordinator", "c", leading(filepath.Join(t.TempDir(), "none"))...)
	if code := missing.wait(t); code != exitUsage || !strings.Contains(missing.stderr.String(), "fanfare keys create") {
		t.Errorf("exit code %d:\n%s", code, missing.stderr.String())
	}
}

// What a client of NATS cannot see is asked at the servers' monitoring addresses.
func TestSyncIsWatched(t *testing.T) {
	t.Parallel()
	nats := startNATSServer(t, func(o *natsserver.Options) {
		o.SyncAlways, o.HTTPHost, o.HTTPPort = false, "127.0.0.1", natsserver.RANDOM_PORT
	})
	m := startMember(t, "coordinator", "a", "--insecure", "--etcd-endpoints", startEtcd(t, "http", nil), "--partitions", "1",
		"--nats-url", nats.ClientURL(), "--nats-replicas", "1", "--nats-monitor-urls", "http://"+nats.MonitorAddr().String(),
		"--secrets-key-file", makeKey(t))
	m.awaitStart(t)
	const want = "does not sync each record to disk"
	eventually(t, "it is said to those who look", func() bool {
		cluster, err := fanfarev1.NewClusterServiceClient(m.conn).DescribeCluster(t.Context(), &fanfarev1.DescribeClusterRequest{})
		return err == nil && strings.Contains(strings.Join(cluster.GetProblems(), "\n"), want) &&
			slices.ContainsFunc(cluster.GetEngines(), func(e *fanfarev1.Engine) bool { return e.GetSync() == "not always on each server" })
	})
	if log := m.stderr.String(); !strings.Contains(log, want) || !strings.Contains(log, `"level":"ERROR"`) {
		t.Errorf("the log does not say it:\n%s", log)
	}
	m.stop(t)
}

// Without engines of its own a coordinator is a whole cluster on one machine,
// and with the strict policy.
func TestCoordinatorAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := &member{dev{process: startProcess(t, "coordinator", "--insecure", "--data-dir", dir, "--log-format", "json",
		"--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--egress-allow-networks", "127.0.0.0/8", "--egress-allow-http")}}
	m.awaitReady(t)
	r := newReceiver(t, nil)
	m.subscribe(t, &fanfarev1.Subscription{Url: r.url + "/hook"})
	m.publish(t, "order.created", "e1")
	eventually(t, "the event arrives", func() bool { return r.arrivals("/hook")["e1"] == 1 })
	if _, err := os.Stat(filepath.Join(dir, "secrets.key")); err != nil {
		t.Error(err)
	}
	m.stop(t)
}

// runToEnd runs `fanfare args…` to its end and returns what it wrote and its exit
// code.
func runToEnd(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	p := startProcess(t, args...)
	code = p.wait(t)
	return p.stdout.String(), p.stderr.String(), code
}

// certified is a folder of certificates that `fanfare certs` has made.
type certified string

// newCertified makes an authority, and certificates for members and clients.
func newCertified(t *testing.T) certified {
	t.Helper()
	dir := certified(t.TempDir())
	for _, args := range [][]string{
		{"ca"},
		{"node", "--role", "coordinator", "--id", "coordinators", "--host", "127.0.0.1,localhost"},
		{"node", "--role", "worker", "--id", "workers"},
		{"node", "--role", "engine", "--id", "engines", "--host", "127.0.0.1"},
		{"client", "--id", "ops", "--tenant", "*", "--scopes", "admin"},
		{"client", "--id", "reader", "--tenant", "default", "--scopes", "read"},
	} {
		if _, stderr, code := runToEnd(t, append(append([]string{"certs"}, args...), "--dir", string(dir))...); code != exitOK {
			t.Fatalf("certs %v: exit code %d: %s", args, code, stderr)
		}
	}
	return dir
}

func (c certified) file(name string) string { return filepath.Join(string(c), name) }

// as returns the flags with which a command uses a certificate.
func (c certified) as(name string) []string {
	return []string{"--tls-ca", c.file("ca.crt"), "--tls-cert", c.file(name + ".crt"), "--tls-key", c.file(name + ".key")}
}

// asEngineClient returns the flags with which a member uses a certificate to
// talk to an engine.
func (c certified) asEngineClient(engine, name string) []string {
	return []string{
		"--" + engine + "-tls-ca", c.file("ca.crt"),
		"--" + engine + "-tls-cert", c.file(name + ".crt"), "--" + engine + "-tls-key", c.file(name + ".key"),
	}
}

// credentials are those of a client of a certificate.
func (c certified) credentials(t *testing.T, name string) credentials.TransportCredentials {
	t.Helper()
	files := engineTLS{ca: c.file("ca.crt")}
	if name != "" {
		files.cert, files.key = c.file(name+".crt"), c.file(name+".key")
	}
	config, err := files.config()
	if err != nil {
		t.Fatal(err)
	}
	return credentials.NewTLS(config)
}

// secureEngines runs etcd and NATS that want certificates of the authority,
// and returns the flags with which members reach them.
func secureEngines(t *testing.T, c certified) (etcd, nats []string) {
	t.Helper()
	etcdURL := startEtcd(t, "https", func(config *embed.Config) {
		config.ClientTLSInfo = transport.TLSInfo{
			CertFile: c.file("engines.crt"), KeyFile: c.file("engines.key"), TrustedCAFile: c.file("ca.crt"), ClientCertAuth: true,
		}
	})
	natsURL := startNATS(t, func(options *natsserver.Options) {
		config, err := natsserver.GenTLSConfig(&natsserver.TLSConfigOpts{
			CertFile: c.file("engines.crt"), KeyFile: c.file("engines.key"), CaFile: c.file("ca.crt"), Verify: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		options.TLSConfig, options.TLS, options.TLSVerify = config, true, true
		options.Username, options.Password = "fanfare", "hunter2"
	})
	natsURL = strings.Replace(natsURL, "nats://", "tls://", 1)
	etcd = append([]string{"--etcd-endpoints", etcdURL}, c.asEngineClient("etcd", "workers")...)
	nats = append([]string{"--nats-url", natsURL, "--nats-user", "fanfare", "--nats-password", "hunter2", "--nats-replicas", "1"},
		c.asEngineClient("nats", "coordinators")...)
	return etcd, nats
}

// dialAs connects to a coordinator as the holder of a certificate, "" for none,
// and of a token, "" for none.
func dialAs(t *testing.T, c certified, m *member, cert, token string) *grpc.ClientConn {
	t.Helper()
	options := []grpc.DialOption{grpc.WithTransportCredentials(c.credentials(t, cert))}
	if token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearerToken(token)))
	}
	conn, err := grpc.NewClient(m.grpc, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// createToken adds a token to a file and returns it.
func createToken(t *testing.T, file string, args ...string) string {
	t.Helper()
	stdout, stderr, code := runToEnd(t, append([]string{"tokens", "create"}, args...)...)
	token := regexp.MustCompile(`fanfare_\w+`).FindString(stderr)
	if code != exitOK || token == "" || strings.Contains(stdout, token) {
		t.Fatalf("tokens create: exit code %d: %s%s", code, stdout, stderr)
	}
	before, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	text := string(before) + stdout
	if len(before) > 0 {
		text = string(before) + strings.TrimPrefix(stdout, "tokens:\n")
	}
	if err := os.WriteFile(file+".new", []byte(text), privateMode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	return token
}

// Two coordinators and two workers over mutual TLS with certificates of
// `fanfare certs`, on etcd and NATS over TLS: events come through for those who
// may, and nobody else gets in.
func TestSecureCluster(t *testing.T) {
	t.Parallel()
	c := newCertified(t)
	etcd, nats := secureEngines(t, c)
	tokens := filepath.Join(t.TempDir(), "tokens.yaml")
	shop := createToken(t, tokens, "--name", "shop", "--tenant", "default", "--scopes", "publish,read")
	leading := append(append(append([]string{
		"--secrets-key-file", makeKey(t), "--partitions", "4", "--slots", "4", "--tokens-file", tokens,
		"--egress-allow-http", "--egress-allow-loopback",
	}, c.as("coordinators")...), etcd...), nats...)
	sending := append(append([]string{"--egress-allow-http", "--egress-allow-loopback"}, c.as("workers")...), etcd...)
	a, b := startMember(t, "coordinator", "a", leading...), startMember(t, "coordinator", "b", leading...)
	workers := []*member{startMember(t, "worker", "w1", sending...), startMember(t, "worker", "w2", sending...)}
	a.awaitStart(t)
	b.awaitStart(t)
	for _, m := range []*member{a, b} {
		m.conn = dialAs(t, c, m, "ops", "")
	}

	r := newReceiver(t, nil)
	created := subscribeAnywhere(t, &fanfarev1.Subscription{Url: r.url + "/hook"}, a, b)
	publishAnywhere(t, &fanfarev1.PublishRequest{Parent: demoTenant, Events: []*fanfarev1.Event{
		{Id: "by-certificate", Type: "order.created", Data: []byte(`{}`)},
	}}, a, b)
	byToken := []*member{{dev{conn: dialAs(t, c, a, "", shop)}}, {dev{conn: dialAs(t, c, b, "", shop)}}}
	publishAnywhere(t, &fanfarev1.PublishRequest{Parent: demoTenant, Events: []*fanfarev1.Event{
		{Id: "by-token", Type: "order.created", Data: []byte(`{}`)},
	}}, byToken...)
	eventually(t, "the events arrive", func() bool { return len(r.arrivals("/hook")) == 2 })
	r.verify(t, "/hook", created.GetSecret())

	t.Run("refusals", func(t *testing.T) { checkRefusals(t, c, a, shop) })
	t.Run("HTTP", func(t *testing.T) { checkSecureHTTP(t, c, a, shop) })
	t.Run("CLI", func(t *testing.T) { checkSecureCLI(t, c, a, shop) })
	t.Run("tokens change", func(t *testing.T) { checkTokensChange(t, c, a, tokens, shop) })
	t.Run("certificates change", func(t *testing.T) { checkCertificatesChange(t, c, a) })
	for _, m := range append(workers, a, b) {
		if log := m.stderr.String(); strings.Contains(log, "INSECURE") || strings.Contains(log, "hunter2") || strings.Contains(log, shop) {
			t.Errorf("the log says what it should not:\n%s", log)
		}
		m.stop(t)
	}
}

// checkRefusals calls as those who may not.
func checkRefusals(t *testing.T, c certified, m *member, shop string) {
	publish := func(parent string) func(*grpc.ClientConn) error {
		return func(conn *grpc.ClientConn) error {
			_, err := fanfarev1.NewEventServiceClient(conn).Publish(t.Context(), &fanfarev1.PublishRequest{
				Parent: parent, Events: []*fanfarev1.Event{{Type: "a"}},
			})
			return err
		}
	}
	describe := func(conn *grpc.ClientConn) error {
		_, err := fanfarev1.NewClusterServiceClient(conn).DescribeCluster(t.Context(), &fanfarev1.DescribeClusterRequest{})
		return err
	}
	attach := func(conn *grpc.ClientConn) error {
		stream, err := linkv1.NewLinkServiceClient(conn).Attach(t.Context())
		if err != nil {
			return err
		}
		hello := &linkv1.AttachRequest{Message: &linkv1.AttachRequest_Hello{Hello: &linkv1.Hello{}}}
		if err := stream.Send(hello); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	health := func(conn *grpc.ClientConn) error {
		_, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		return err
	}
	for _, tt := range []struct {
		name, cert, token string
		call              func(*grpc.ClientConn) error
		want              codes.Code
		says              string
	}{
		{"nobody publishes", "", "", publish(demoTenant), codes.Unauthenticated, "say who you are"},
		{"a wrong token", "", shop + "x", publish(demoTenant), codes.Unauthenticated, "not known here"},
		{"a wrong token with a good certificate", "ops", "fanfare_wrong", publish(demoTenant), codes.Unauthenticated, "not known here"},
		{"a token of another tenant", "", shop, publish("tenants/globex"), codes.PermissionDenied, `may act in the tenant "default", not in "globex"`},
		{"a token without the scope", "", shop, describe, codes.PermissionDenied, "whole cluster"},
		{"a certificate without the scope", "reader", "", publish(demoTenant), codes.PermissionDenied, `needs the scope "publish"`},
		{"a worker publishes", "workers", "", publish(demoTenant), codes.PermissionDenied, "is a worker"},
		{"nobody attaches", "", "", attach, codes.Unauthenticated, "say who you are"},
		{"a client attaches", "ops", "", attach, codes.PermissionDenied, "no member"},
		{"an engine attaches", "engines", "", attach, codes.PermissionDenied, "no member"},
		{"nobody asks for the health", "", "", health, codes.OK, ""},
	} {
		err := tt.call(dialAs(t, c, m, tt.cert, tt.token))
		if status.Code(err) != tt.want || err != nil && (!strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), shop)) {
			t.Errorf("%s: got %v, want %v that says %q", tt.name, err, tt.want, tt.says)
		}
	}
	other := newCertified(t) // of another authority
	files := engineTLS{ca: c.file("ca.crt"), cert: other.file("ops.crt"), key: other.file("ops.key")}
	config, err := files.config()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(m.grpc, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // it was never of use
	if err := health(conn); status.Code(err) != codes.Unavailable {
		t.Errorf("a certificate of another authority: got %v, want no connection", err)
	}
}

// checkSecureHTTP calls REST, health and metrics.
func checkSecureHTTP(t *testing.T, c certified, m *member, shop string) {
	call := func(cert, token, path string) (int, string) {
		files := engineTLS{ca: c.file("ca.crt")}
		if cert != "" {
			files.cert, files.key = c.file(cert+".crt"), c.file(cert+".key")
		}
		config, err := files.config()
		if err != nil {
			t.Fatal(err)
		}
		client := http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
		defer client.CloseIdleConnections()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.http+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	for _, tt := range []struct {
		name, cert, token, path string
		want                    int
	}{
		{"health", "", "", "/healthz", http.StatusOK},
		{"the API's description", "", "", "/openapi.json", http.StatusOK},
		{"nobody reads", "", "", "/v1/cluster", http.StatusUnauthorized},
		{"a wrong token reads", "", "x" + shop, "/v1/cluster", http.StatusUnauthorized},
		{"a token reads another tenant", "", shop, "/v1/tenants/globex", http.StatusForbidden},
		{"a certificate reads the cluster", "ops", "", "/v1/cluster", http.StatusOK},
		{"nobody reads metrics", "", "", "/metrics", http.StatusUnauthorized},
		{"a token reads metrics without the scope", "", shop, "/metrics", http.StatusForbidden},
		{"a certificate reads metrics", "ops", "", "/metrics", http.StatusOK},
		{"what is not there is not told to nobody", "", "", "/else", http.StatusUnauthorized},
	} {
		if got, body := call(tt.cert, tt.token, tt.path); got != tt.want {
			t.Errorf("%s: status %d, want %d: %s", tt.name, got, tt.want, body)
		}
	}
}

// checkSecureCLI calls as people do.
func checkSecureCLI(t *testing.T, c certified, m *member, shop string) {
	call := func(args ...string) (string, string, int) {
		return runToEnd(t, append(args, "--address", m.grpc)...)
	}
	if stdout, stderr, code := call(append([]string{"cluster"}, c.as("ops")...)...); code != exitOK || !strings.Contains(stdout, "w1") {
		t.Errorf("cluster with a certificate: exit code %d: %s%s", code, stdout, stderr)
	}
	if _, stderr, code := call("cluster", "--tls-ca", c.file("ca.crt"), "--token", shop); code != exitFailed ||
		!strings.Contains(stderr, "permission denied") {
		t.Errorf("cluster with a token for a tenant: exit code %d: %s", code, stderr)
	}
	if _, stderr, code := call("cluster", "--token", shop); code != exitUsage || !strings.Contains(stderr, "plain text") || strings.Contains(stderr, shop) {
		t.Errorf("a token without TLS: exit code %d: %s", code, stderr)
	}
	if _, stderr, code := call("cluster", "--timeout", "5s"); code != exitFailed || !strings.Contains(stderr, "TLS") {
		t.Errorf("in plain text: exit code %d: %s", code, stderr)
	}
}

// checkTokensChange takes a token away and puts another one in its place.
func checkTokensChange(t *testing.T, c certified, m *member, file, shop string) {
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	next := createToken(t, file, "--name", "next", "--tenant", "*", "--scopes", "read")
	list := func(token string) codes.Code {
		_, err := fanfarev1.NewTenantServiceClient(dialAs(t, c, m, "", token)).GetTenant(t.Context(), &fanfarev1.GetTenantRequest{Name: demoTenant})
		return status.Code(err)
	}
	eventually(t, "the new token counts and the old one no longer does", func() bool {
		now := list(next)
		return (now == codes.OK || now == codes.Unavailable) && list(shop) == codes.Unauthenticated
	})
}

// checkCertificatesChange gives a running coordinator a certificate with
// another host, by rename, and looks at what it shows.
func checkCertificatesChange(t *testing.T, c certified, m *member) {
	fresh := t.TempDir()
	if _, stderr, code := runToEnd(t, "certs", "node", "--role", "coordinator", "--id", "coordinators", "--dir", fresh, "--ca-dir", string(c),
		"--host", "127.0.0.1,localhost,renewed.example"); code != exitOK {
		t.Fatalf("certs node: %s", stderr)
	}
	for _, name := range []string{"coordinators.crt", "coordinators.key"} {
		if err := os.Rename(filepath.Join(fresh, name), c.file(name)); err != nil {
			t.Fatal(err)
		}
	}
	config, err := (&engineTLS{ca: c.file("ca.crt")}).config()
	if err != nil {
		t.Fatal(err)
	}
	config.NextProtos = []string{"h2"}
	eventually(t, "the new certificate is shown", func() bool {
		conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", m.grpc)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() //nolint:errcheck // it has shown what it should
		shown, ok := conn.(*tls.Conn)
		return ok && shown.ConnectionState().PeerCertificates[0].VerifyHostname("renewed.example") == nil
	})
}

// What a member's certificate does not allow is said at its start.
func TestMembersAreCheckedAtTheirStart(t *testing.T) {
	t.Parallel()
	c := newCertified(t)
	for _, tt := range []struct {
		name string
		args []string
		says string
	}{
		{"nothing is said about security", []string{"worker", "--etcd-endpoints", "http://127.0.0.1:1"}, "--tls-ca is empty"},
		{"a client's certificate", append([]string{"worker", "--etcd-endpoints", "http://127.0.0.1:1"}, c.as("ops")...), "is for a client, not for a worker"},
		{"plain text to another machine", append([]string{"worker", "--etcd-endpoints", "http://192.0.2.1:2379"}, c.as("workers")...), "in plain text"},
		{"a host that the certificate lacks", append([]string{
			"coordinator", "--data-dir", t.TempDir(), "--grpc-address", "127.0.0.1:0",
			"--http-address", "127.0.0.1:0", "--advertise-address", "c1.example:7400",
		}, c.as("coordinators")...), "--advertise-address is c1.example:7400"},
		{"TLS and none", append([]string{"worker", "--insecure", "--etcd-endpoints", "http://127.0.0.1:1"}, c.as("workers")...), "together with --insecure"},
	} {
		if _, stderr, code := runToEnd(t, tt.args...); code != exitUsage || !strings.Contains(stderr, tt.says) {
			t.Errorf("%s: exit code %d, want one that says %q:\n%s", tt.name, code, tt.says, stderr)
		}
	}
	if _, stderr, code := runToEnd(t, "certs", "ca", "--dir", string(c)); code != exitFailed || !strings.Contains(stderr, "not overwritten") {
		t.Errorf("a second authority: exit code %d: %s", code, stderr)
	}
	for _, name := range []string{"ca.key", "coordinators.key", "ops.key"} {
		info, err := os.Stat(c.file(name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != privateMode {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}
