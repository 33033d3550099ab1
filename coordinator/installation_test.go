package coordinator_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/coordinator"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/coordinator/serve"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	embeddedetcd "github.com/fanfare-dev/fanfare/internal/cluster/embedded"
	"github.com/fanfare-dev/fanfare/internal/eventlog"
	embeddednats "github.com/fanfare-dev/fanfare/internal/eventlog/embedded"
	"github.com/fanfare-dev/fanfare/internal/history"
	"github.com/fanfare-dev/fanfare/internal/sealed"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// There are two partitions, and a tenant in each. Where files of one partition
// are touched, they are those of the first.
const (
	partitions = 2
	damaged    = 0
)

// The parts of a data folder.
const (
	natsDir     = "nats"
	etcdDir     = "etcd"
	historyFile = "history.db"
)

// tenantOf returns a tenant of a partition.
func tenantOf(partition int) string {
	for i := 0; ; i++ {
		tenant := fmt.Sprintf("tenant-%d", i)
		if serve.PartitionOf(ledger.TenantID(tenant), partitions) == partition {
			return tenant
		}
	}
}

func parentOf(partition int) string { return "tenants/" + tenantOf(partition) }

// data is the data folder of an installation.
type data struct {
	*testing.T
	dir string
}

func (d *data) path(name string) string { return filepath.Join(d.dir, name) }

// streamDir is where a stream of the first partition is kept.
func (d *data) streamDir(format string) string {
	return filepath.Join(d.dir, natsDir, "jetstream", "$G", "streams", fmt.Sprintf(format, damaged))
}

const (
	logStream       = "FANFARE_%d"
	snapshotsStream = "FANFARE_SNAPSHOTS_%d"
)

// newestBlock is the file with a stream's newest records.
func (d *data) newestBlock(stream string) string {
	d.Helper()
	blocks, err := filepath.Glob(filepath.Join(d.streamDir(stream), "msgs", "*.blk"))
	if err != nil || len(blocks) == 0 {
		d.Fatalf("there are no blocks of %s: %v", stream, err)
	}
	return slices.MaxFunc(blocks, func(a, b string) int { return len(a) - len(b) + strings.Compare(a, b) })
}

func (d *data) remove(paths ...string) {
	d.Helper()
	for _, path := range paths {
		if _, err := os.Stat(path); err != nil {
			d.Fatal(err)
		}
		if err := os.RemoveAll(path); err != nil {
			d.Fatal(err)
		}
	}
}

// removeHistory removes the database with its journal, if it has one.
func (d *data) removeHistory() {
	d.Helper()
	files, err := filepath.Glob(d.path(historyFile) + "*")
	if err != nil {
		d.Fatal(err)
	}
	d.remove(files...)
}

// flip changes one bit of a file, so far from its end.
func (d *data) flip(path string, fromEnd int) {
	d.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		d.Fatal(err)
	}
	content[len(content)-fromEnd] ^= 0x10
	if err := os.WriteFile(path, content, 0o600); err != nil {
		d.Fatal(err)
	}
}

// cut takes bytes off the end of a file.
func (d *data) cut(path string, bytes int64) {
	d.Helper()
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, max(0, info.Size()-bytes))
	}
	if err != nil {
		d.Fatal(err)
	}
}

// copyOf returns a copy of the data, or of a part of it.
func (d *data) copyOf(part string) string {
	d.Helper()
	to := filepath.Join(d.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(d.path(part))); err != nil {
		d.Fatal(err)
	}
	return to
}

// putBack replaces the data, or a part of it, by a copy.
func (d *data) putBack(part, from string) {
	d.Helper()
	d.remove(d.path(part))
	if err := os.CopyFS(d.path(part), os.DirFS(from)); err != nil {
		d.Fatal(err)
	}
}

// anyURL allows every endpoint: nothing is sent in these tests.
type anyURL struct{}

func (anyURL) CheckURL(string) error { return nil }

// running is a coordinator on its engines.
type running struct {
	*data
	coordinator *coordinator.Coordinator
	leave       func() error // stops the coordinator, once
	nats        *nats.Conn
	events      fanfarev1.EventServiceClient
	tenants     fanfarev1.TenantServiceClient
	subs        fanfarev1.SubscriptionServiceClient
	cluster     fanfarev1.ClusterServiceClient
	web         *http.Client
	closers     []func() error // in the order of opening
}

func (r *running) closeLater(closer func() error) { r.closers = append(r.closers, closer) }

// run runs a coordinator while f does, and the engines a little longer.
func (d *data) run(f func(*running)) {
	d.Helper()
	r := &running{data: d}
	defer r.close()
	r.start()
	f(r)
}

func (r *running) close() {
	r.Helper()
	for _, closer := range slices.Backward(r.closers) {
		if err := closer(); err != nil {
			r.Errorf("stopping: %v", err)
		}
	}
}

func (r *running) start() {
	r.Helper()
	logger := slog.New(slog.NewTextHandler(r.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	etcd, err := embeddedetcd.Start(r.Context(), embeddedetcd.Config{Dir: r.path(etcdDir), Logger: logger})
	r.must(err)
	r.closeLater(etcd.Close)
	logs := r.startNATS(logger)
	store, err := history.OpenSQLite(r.Context(), r.path(historyFile))
	r.must(err)
	r.closeLater(store.Close)
	secrets, err := sealed.Load(r.path("secrets.key"))
	r.must(err)
	onGRPC, onHTTP := bufconn.Listen(1<<16), bufconn.Listen(1<<16)
	r.coordinator = coordinator.New(coordinator.Config{
		Member: cluster.MemberConfig{
			Info: cluster.Info{ID: "coordinator-1", Role: cluster.Coordinator, Address: "here"}, Logger: logger,
		},
		Cluster: cluster.NewEtcd(etcd.Client(), "/fanfare/"), Logs: logs, History: store,
		Secrets: secrets, URLs: anyURL{}, Logger: logger, GRPC: onGRPC, HTTP: onHTTP, Partitions: partitions, Slots: 1,
	})
	ctx, stop := context.WithCancel(context.WithoutCancel(r.Context()))
	ended := make(chan error, 1)
	go func() { ended <- r.coordinator.Run(ctx) }()
	r.leave = sync.OnceValue(func() error {
		stop()
		return <-ended
	})
	r.closeLater(r.leave)
	r.connect(onGRPC, onHTTP)
	select {
	case <-r.coordinator.Ready():
	case err := <-ended:
		ended <- nil
		r.Fatalf("the coordinator ended: %v", err)
	}
}

// startNATS runs NATS alone.
func (r *running) startNATS(logger *slog.Logger) eventlog.Store {
	r.Helper()
	server, err := embeddednats.Start(embeddednats.Config{Dir: r.path(natsDir), Logger: logger})
	r.must(err)
	r.closeLater(func() error { server.Close(); return nil })
	r.nats, err = server.Connect()
	r.must(err)
	r.closeLater(func() error { r.nats.Close(); return nil })
	logs, err := eventlog.NewJetStream(r.nats, eventlog.JetStreamConfig{Logger: logger})
	r.must(err)
	return logs
}

func (r *running) connect(onGRPC, onHTTP *bufconn.Listener) {
	r.Helper()
	conn, err := grpc.NewClient("passthrough:///here",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return onGRPC.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	r.must(err)
	r.closeLater(conn.Close)
	r.events, r.subs = fanfarev1.NewEventServiceClient(conn), fanfarev1.NewSubscriptionServiceClient(conn)
	r.tenants, r.cluster = fanfarev1.NewTenantServiceClient(conn), fanfarev1.NewClusterServiceClient(conn)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return onHTTP.DialContext(ctx) },
	}
	r.web = &http.Client{Transport: transport}
	r.closeLater(func() error { transport.CloseIdleConnections(); return nil })
}

func (r *running) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// settle makes each partition's tenant, with a subscription to everything that
// nobody delivers to: it is owed all that is published.
func (r *running) settle() {
	r.Helper()
	for partition := range partitions {
		_, err := r.tenants.CreateTenant(r.Context(), &fanfarev1.CreateTenantRequest{
			TenantId: tenantOf(partition), Tenant: &fanfarev1.Tenant{},
		})
		r.must(err)
		_, err = r.subs.CreateSubscription(r.Context(), &fanfarev1.CreateSubscriptionRequest{
			Parent: parentOf(partition), Subscription: &fanfarev1.Subscription{Url: "https://example.com/hook"},
		})
		r.must(err)
	}
}

// deleteSubscription deletes the first partition's subscription: nothing is
// owed there any more.
func (d *data) deleteSubscription() {
	d.Helper()
	d.run(func(r *running) {
		found, err := r.subs.ListSubscriptions(r.Context(), &fanfarev1.ListSubscriptionsRequest{Parent: parentOf(damaged)})
		r.must(err)
		for _, sub := range found.GetSubscriptions() {
			_, err := r.subs.DeleteSubscription(r.Context(), &fanfarev1.DeleteSubscriptionRequest{Name: sub.GetName()})
			r.must(err)
		}
	})
}

// publish publishes the events e<from> to e<to-1> one by one, and returns how
// many were there before.
func (r *running) publish(partition, from, to int) (duplicates int, err error) {
	r.Helper()
	for i := from; i < to; i++ {
		response, err := r.events.Publish(r.Context(), &fanfarev1.PublishRequest{
			Parent: parentOf(partition),
			Events: []*fanfarev1.Event{{
				Id: fmt.Sprintf("e%d", i), Type: "order.created", Data: fmt.Appendf(nil, "%q", strings.Repeat("x", 1000)),
			}},
		})
		if err != nil {
			return duplicates, err
		}
		if response.GetResults()[0].GetDuplicate() {
			duplicates++
		}
	}
	return duplicates, nil
}

// publishNew publishes events that were not there before.
func (r *running) publishNew(from, to int) {
	r.Helper()
	for partition := range partitions {
		if duplicates, err := r.publish(partition, from, to); err != nil || duplicates > 0 {
			r.Fatalf("publishing to partition %d: %d duplicates, %v", partition, duplicates, err)
		}
	}
}

// listed returns how many events of a partition's tenant the history has.
func (r *running) listed(partition int) int {
	r.Helper()
	response, err := r.events.ListEvents(r.Context(), &fanfarev1.ListEventsRequest{Parent: parentOf(partition), PageSize: 1000})
	r.must(err)
	return len(response.GetEvents())
}

// described returns how a partition is doing, and all problems.
func (r *running) described(partition int) (*fanfarev1.Partition, []string) {
	r.Helper()
	described, err := r.cluster.DescribeCluster(r.Context(), &fanfarev1.DescribeClusterRequest{})
	r.must(err)
	return described.GetPartitions()[partition], described.GetProblems()
}

// health returns what readyz answers.
func (r *running) health() (code int, body struct{ Status, Problem string }) {
	r.Helper()
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://here/readyz", http.NoBody)
	r.must(err)
	response, err := r.web.Do(request)
	r.must(err)
	content, err := io.ReadAll(response.Body)
	r.must(errors.Join(err, response.Body.Close()))
	r.must(json.Unmarshal(content, &body))
	return response.StatusCode, body
}

// checkIntact checks that a partition has the n events that were acknowledged,
// owes them all, and takes more.
func (r *running) checkIntact(partition, n int) {
	r.Helper()
	if about, problems := r.described(partition); about.GetOutstanding() != int64(n) {
		r.Errorf("partition %d owes %d deliveries, want %d; problems: %q", partition, about.GetOutstanding(), n, problems)
	}
	r.checkKnown(partition, n)
}

// checkKnown checks that a partition has the n events that were acknowledged,
// and takes more.
func (r *running) checkKnown(partition, n int) {
	r.Helper()
	if duplicates, err := r.publish(partition, 0, n); err != nil || duplicates != n {
		r.Errorf("publishing what was acknowledged to partition %d again: %d duplicates of %d, %v", partition, duplicates, n, err)
	}
	if duplicates, err := r.publish(partition, n, n+1); err != nil || duplicates > 0 {
		r.Errorf("publishing something new to partition %d: %d duplicates, %v", partition, duplicates, err)
	}
}

// checkHalted checks that the first partition is halted, and that everybody who
// asks is told so.
func (r *running) checkHalted() {
	r.Helper()
	says := fmt.Sprintf("partition %d is halted: ", damaged)
	_, err := r.publish(damaged, 0, 1)
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "docs/operations.md") {
		r.Errorf("publishing: %v, want UNAVAILABLE and what to do", err)
	}
	_, err = r.events.ListEvents(r.Context(), &fanfarev1.ListEventsRequest{Parent: parentOf(damaged)})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), says) {
		r.Errorf("listing events: %v, want UNAVAILABLE", err)
	}
	if _, problems := r.described(damaged); !slices.ContainsFunc(problems, func(p string) bool { return strings.HasPrefix(p, says) }) {
		r.Errorf("the cluster's problems are %q, want one about the partition", problems)
	}
	if halted := r.coordinator.HaltedPartitions(); !slices.Contains(halted, damaged) {
		r.Errorf("partitions %v are halted, want %d", halted, damaged)
	}
}

// checkOnlyOneHalted is checkHalted, and checks that the other partition, which
// has n events, is served as ever.
func (r *running) checkOnlyOneHalted(n int) {
	r.Helper()
	r.checkHalted()
	r.checkIntact(damaged+1, n)
	if code, body := r.health(); code != http.StatusOK || body.Status != "degraded" || !strings.Contains(body.Problem, "is halted") {
		r.Errorf("readyz answers %d %+v, want 200 and what is wrong", code, body)
	}
}

// checkAllHalted checks that no partition is served.
func (r *running) checkAllHalted() {
	r.Helper()
	r.checkHalted()
	if halted := r.coordinator.HaltedPartitions(); len(halted) != partitions {
		r.Errorf("partitions %v are halted, want all", halted)
	}
	if code, body := r.health(); code != http.StatusServiceUnavailable || body.Status != "unavailable" {
		r.Errorf("readyz answers %d %+v, want 503", code, body)
	}
}

// snapshot keeps snapshots of the first partition's log at some of its records,
// as a leader does, and returns with the log as it was.
func (d *data) snapshot(at ...uint64) {
	d.withLog(func(r *running, log eventlog.Log) { r.saveSnapshots(log, at...) })
}

// snapshotAndPurge is snapshot, and purges what the oldest one stands for.
func (d *data) snapshotAndPurge(at ...uint64) {
	d.withLog(func(r *running, log eventlog.Log) {
		r.saveSnapshots(log, at...)
		r.must(log.Purge(r.Context(), at[0]))
	})
}

// withLog opens the first partition's log while nobody else has it.
func (d *data) withLog(f func(*running, eventlog.Log)) {
	d.Helper()
	r := &running{data: d}
	defer r.close()
	log, err := r.startNATS(slog.New(slog.DiscardHandler)).Open(r.Context(), damaged)
	r.must(err)
	r.closeLater(log.Close)
	f(r, log)
}

func (r *running) saveSnapshots(log eventlog.Log, at ...uint64) {
	r.Helper()
	state := ledger.New()
	for state.Sequence() < at[len(at)-1] {
		records, err := log.Read(r.Context(), state.Sequence()+1, eventlog.MaxReadRecords)
		r.must(err)
		if len(records) == 0 {
			r.Fatalf("the log ends at record %d", state.Sequence())
		}
		for _, stored := range records {
			record, hash := new(linkv1.Record), sha256.Sum256(stored.Data)
			r.must(proto.Unmarshal(stored.Data, record))
			_, err := state.Fold(stored.Seq, hash[:], record)
			r.must(err)
			if slices.Contains(at, stored.Seq) {
				snapshot, err := state.Snapshot()
				r.must(err)
				r.must(log.SaveSnapshot(r.Context(), stored.Seq, snapshot))
			}
		}
	}
}
