package main

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/fanfare-dev/fanfare/internal/sealed"
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
	return nats.ClientURL()
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
	leading := append([]string{"--nats-url", nats, "--nats-replicas", "1", "--secrets-key-file", key, "--partitions", "4", "--slots", "4",
		"--egress-allow-http", "--egress-allow-loopback"}, shared...)
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
		return []string{"--insecure", "--etcd-endpoints", etcd, "--nats-url", nats, "--nats-replicas", "1", "--partitions", "1",
			"--secrets-key-file", key}
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
