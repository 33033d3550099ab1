package clusterlab_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	partitions = 8
	slots      = 4
	leaseTTL   = 4 * time.Second
	// ownedLimit bounds how long partitions and shards may be without an owner
	// once everybody lives and can be reached: far more than it takes, as the
	// machine of a test may be busy.
	ownedLimit = 2 * time.Minute
)

// line is what a process speaks to through proxies of its own.
type line struct{ etcd, nats []*proxy }

func (l line) cutEtcd(cut bool) { cutAll(l.etcd, cut) }
func (l line) cutNATS(cut bool) { cutAll(l.nats, cut) }

func cutAll(proxies []*proxy, cut bool) {
	for _, p := range proxies {
		p.setCut(cut)
	}
}

// member is a coordinator or a worker.
type member struct {
	process
	line

	front  *proxy           // what others dial; nil: it is a worker
	direct string           // what clients dial
	conn   *grpc.ClientConn // to direct
}

// lab is a whole cluster.
type lab struct {
	t            testing.TB
	dir          string
	binary       string
	etcd, nats   []*process
	proxies      []*proxy
	etcdClients  []string
	natsClients  []string
	coordinators []*member
	workers      []*member
}

// newLab starts a cluster and waits until everything has an owner. more are
// further arguments of every worker.
func newLab(t testing.TB, coordinators, workers int, more ...string) *lab {
	t.Helper()
	l := &lab{t: t, dir: cmp.Or(os.Getenv("LAB_DIR"), t.TempDir()), binary: buildBinary(t)}
	t.Cleanup(l.close)
	l.etcd, l.etcdClients = l.engines("etcd", 3)
	l.nats, l.natsClients = l.engines("nats", 3)
	key := filepath.Join(l.dir, "secrets.key")
	run(t, l.binary, "keys", "create", key)
	for i := range coordinators {
		l.coordinators = append(l.coordinators, l.newCoordinator(i+1, key))
	}
	for i := range workers {
		l.workers = append(l.workers, l.newWorker(i+1, more))
	}
	for _, m := range l.members() {
		m.start()
	}
	l.awaitOwned()
	return l
}

func (l *lab) members() []*member {
	return append(append([]*member(nil), l.coordinators...), l.workers...)
}

// engines starts the servers of one kind and returns where clients reach them.
func (l *lab) engines(kind string, n int) (all []*process, clients []string) {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	var names, peers []string
	for i := range n {
		names = append(names, fmt.Sprintf("%s-%d", kind, i+1))
		clients = append(clients, freeAddress(l.t))
		peers = append(peers, freeAddress(l.t))
	}
	for i, name := range names {
		text, err := json.Marshal(engine{
			Kind: kind, Name: name, Dir: filepath.Join(l.dir, name), Client: clients[i], Peer: peers[i], Names: names, Peers: peers,
		})
		if err != nil {
			l.t.Fatal(err)
		}
		p := &process{
			t: l.t, name: name, path: self, log: filepath.Join(l.dir, name+".log"),
			env: []string{engineVariable + "=" + string(text)},
		}
		p.start()
		all = append(all, p)
	}
	return all, clients
}

func (l *lab) proxy(target string) *proxy {
	l.t.Helper()
	p := newProxy(l.t, target)
	l.proxies = append(l.proxies, p)
	return p
}

// line makes a process's proxies to the engines.
func (l *lab) line() (made line) {
	for _, address := range l.etcdClients {
		made.etcd = append(made.etcd, l.proxy(address))
	}
	for _, address := range l.natsClients {
		made.nats = append(made.nats, l.proxy(address))
	}
	return made
}

func urls(scheme string, proxies []*proxy) string {
	var all []string
	for _, p := range proxies {
		all = append(all, scheme+p.address())
	}
	return strings.Join(all, ",")
}

func (l *lab) shared(role, id string, to line) []string {
	return []string{
		role, "--insecure", "--id", id, "--lease-ttl", leaseTTL.String(), "--http-address", "127.0.0.1:0", "--log-format", "json",
		"--etcd-endpoints", urls("http://", to.etcd), "--egress-allow-http", "--egress-allow-loopback",
	}
}

func (l *lab) newCoordinator(number int, key string) *member {
	l.t.Helper()
	id, address, to := fmt.Sprintf("coordinator-%d", number), freeAddress(l.t), l.line()
	m := &member{line: to, front: l.proxy(address), direct: address}
	m.process = process{
		t: l.t, name: id, path: l.binary, log: filepath.Join(l.dir, id+".log"),
		args: append(l.shared("coordinator", id, to),
			"--nats-url", urls("nats://", to.nats), "--grpc-address", address, "--advertise-address", m.front.address(),
			"--data-dir", filepath.Join(l.dir, id), "--secrets-key-file", key,
			"--partitions", strconv.Itoa(partitions), "--slots", strconv.Itoa(slots)),
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		l.t.Fatal(err)
	}
	m.conn = conn
	return m
}

func (l *lab) newWorker(number int, more []string) *member {
	id, to := fmt.Sprintf("worker-%d", number), l.line()
	m := &member{line: to}
	m.process = process{
		t: l.t, name: id, path: l.binary, log: filepath.Join(l.dir, id+".log"),
		args: append(l.shared("worker", id, to), more...),
	}
	return m
}

// close ends everything, as politely as it goes.
func (l *lab) close() {
	for _, m := range l.workers {
		m.stop()
	}
	for _, m := range l.coordinators {
		m.stop()
		if err := m.conn.Close(); err != nil {
			l.t.Error(err)
		}
	}
	for _, e := range append(append([]*process(nil), l.nats...), l.etcd...) {
		e.kill()
	}
	for _, p := range l.proxies {
		p.close()
	}
	if l.t.Failed() {
		for _, m := range l.members() {
			l.t.Logf("the last words of %s:\n%s", m.name, m.tail())
		}
	}
}

// ask makes a call to one coordinator after the other until one answers,
// each in a short time.
func ask[R any](l *lab, call func(context.Context, *grpc.ClientConn) (R, error)) (response R, err error) {
	for _, m := range l.coordinators {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		response, err = call(ctx, m.conn)
		cancel()
		if err == nil {
			return response, nil
		}
	}
	return response, err
}

func (l *lab) describe() (*fanfarev1.Cluster, error) {
	return ask(l, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Cluster, error) {
		return fanfarev1.NewClusterServiceClient(conn).DescribeCluster(ctx, &fanfarev1.DescribeClusterRequest{})
	})
}

// await waits until what is true, which says why it is not.
func (l *lab) await(what string, limit time.Duration, why func() string) {
	l.t.Helper()
	deadline := time.Now().Add(limit)
	for reason := why(); reason != ""; reason = why() {
		if time.Now().After(deadline) {
			l.t.Fatalf("%v have passed without this: %s: %s", limit, what, reason)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// awaitOwned waits until every partition is led and every shard attached.
func (l *lab) awaitOwned() {
	l.t.Helper()
	l.await("everything has an owner", ownedLimit, func() string {
		c, err := l.describe()
		if err != nil {
			return err.Error()
		}
		for _, p := range c.GetPartitions() {
			if p.GetLastSequence() == 0 {
				return fmt.Sprintf("partition %d; problems: %q", p.GetId(), c.GetProblems())
			}
		}
		for _, s := range c.GetShards() {
			if !s.GetAttached() {
				return fmt.Sprintf("shard %d/%d of %q; problems: %q", s.GetPartition(), s.GetSlot(), s.GetWorker(), c.GetProblems())
			}
		}
		return ""
	})
}

// awaitSettled waits until nothing is owed.
func (l *lab) awaitSettled(limit time.Duration) {
	l.t.Helper()
	l.await("nothing is owed", limit, func() string {
		c, err := l.describe()
		if err != nil {
			return err.Error()
		}
		for _, p := range c.GetPartitions() {
			if p.GetLastSequence() == 0 || p.GetOutstanding()+p.GetBehind() > 0 {
				return fmt.Sprintf("partition %d: %d outstanding, %d behind", p.GetId(), p.GetOutstanding(), p.GetBehind())
			}
		}
		return ""
	})
}

// drain has a member drained, or takes that back.
func (l *lab) drain(id string, undo bool) error {
	_, err := ask(l, func(ctx context.Context, conn *grpc.ClientConn) (*fanfarev1.Member, error) {
		return fanfarev1.NewClusterServiceClient(conn).DrainMember(ctx, &fanfarev1.DrainMemberRequest{Member: id, Undo: undo})
	})
	return err
}
