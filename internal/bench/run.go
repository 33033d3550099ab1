package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/signature"
)

const (
	// warmUpEvents are published first and not reported: connections are
	// opened, and code is paged in.
	warmUpEvents = 500
	// endTimeout bounds taking away what a run has made.
	endTimeout = 30 * time.Second
	// badTimeout bounds an attempt on an endpoint that answers late: long
	// enough that it answers in time.
	badTimeout = 30 * time.Second
)

// Progress is told how far a stage of a run is, again and again.
type Progress func(stage string, done, total int)

// Run measures the cluster that conn reaches. processes are the cluster's, as
// far as they run on this machine, whose use of it is reported. Run makes
// tenants of its own and takes them away again.
func Run(ctx context.Context, config Config, conn *grpc.ClientConn, processes []int, tell Progress) (_ *Report, err error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	config = config.resolved()
	secret, err := signature.NewSecret(rand.Reader)
	if err != nil {
		return nil, err
	}
	receivers, err := startReceivers(ctx, config, secret)
	if err != nil {
		return nil, err
	}
	r := &run{
		config: config, conn: conn, processes: processes, tell: tell, receivers: receivers, secret: secret,
		name: "bench-" + strings.ToLower(rand.Text()[:8]), data: payload(config.Size),
	}
	defer func() { err = errors.Join(err, r.end(ctx)) }()
	return r.measure(ctx)
}

// run is one call of Run.
type run struct {
	config    Config
	conn      *grpc.ClientConn
	processes []int
	tell      Progress
	receivers *receivers
	secret    signature.Secret
	name      string
	data      []byte
	tenants   []string // resource names of those that were made
	made      []string // resource names of subscriptions
	phases    int
}

func (r *run) measure(ctx context.Context) (*Report, error) {
	healthy, dead, slow := r.config.mix()
	report := &Report{
		Events: r.config.Events, Size: r.config.Size, Tenants: r.config.Tenants, Rate: r.config.Rate,
		Subscriptions: healthy, Dead: dead, Slow: slow,
	}
	if err := r.subscribe(ctx, healthy, r.receivers.healthyURL); err != nil {
		return nil, err
	}
	if _, err := r.load(ctx, "warming up", min(warmUpEvents, r.config.Events), healthy); err != nil {
		return nil, err
	}
	before, err := r.baselines(ctx)
	if err != nil {
		return nil, err
	}
	if report.Load, err = r.load(ctx, "delivering", r.config.Events, healthy); err != nil {
		return nil, err
	}
	if dead+slow > 0 {
		if err := r.addBad(ctx, dead, slow); err != nil {
			return nil, err
		}
		beside, err := r.load(ctx, "delivering beside bad endpoints", r.config.Events, healthy)
		if err != nil {
			return nil, err
		}
		report.WithBad = &beside
	}
	after, err := r.baselines(ctx)
	if err != nil {
		return nil, err
	}
	for i := range before {
		report.Raw = append(report.Raw, mean(before[i], after[i]))
	}
	if len(report.Raw) > 0 && report.Raw[0].PerSec > 0 {
		report.Ratio = report.Load.PerSec / report.Raw[0].PerSec
	}
	if all := report.Load.ClusterCPU + report.Load.BenchCPU; len(report.Raw) > 0 && report.Load.ClusterCPU > 0 {
		report.CPURatio = report.Raw[0].CPU / all
	}
	return report, nil
}

func (r *run) eventType() string { return "bench.event" }

// subscribe makes subscriptions in every tenant, and the tenants first.
func (r *run) subscribe(ctx context.Context, each int, url func(number int) string) error {
	if err := r.makeTenants(ctx); err != nil {
		return err
	}
	client := fanfarev1.NewSubscriptionServiceClient(r.conn)
	for i, tenant := range r.tenants {
		for k := range each {
			r.tell("subscribing", i*each+k, len(r.tenants)*each)
			created, err := client.CreateSubscription(ctx, &fanfarev1.CreateSubscriptionRequest{
				Parent: tenant,
				Subscription: &fanfarev1.Subscription{
					Url: url(i*each + k), Description: r.name, Secret: new(r.secret.Reveal()),
					EventTypes: []string{r.eventType()}, Timeout: durationpb.New(badTimeout),
				},
			})
			if err != nil {
				return fmt.Errorf("subscribing: %w", err)
			}
			r.made = append(r.made, created.GetName())
		}
	}
	return nil
}

func (r *run) makeTenants(ctx context.Context) error {
	client := fanfarev1.NewTenantServiceClient(r.conn)
	for i := len(r.tenants); i < r.config.Tenants; i++ {
		tenant, err := client.CreateTenant(ctx, &fanfarev1.CreateTenantRequest{
			TenantId: r.name + "-" + strconv.Itoa(i), Tenant: &fanfarev1.Tenant{DisplayName: "made by fanfare bench"},
		})
		if err != nil {
			return fmt.Errorf("making a tenant: %w", err)
		}
		r.tenants = append(r.tenants, tenant.GetName())
	}
	return nil
}

func (r *run) addBad(ctx context.Context, dead, slow int) error {
	return errors.Join(
		r.subscribe(ctx, dead, r.receivers.deadURL),
		r.subscribe(ctx, slow, r.receivers.slowURL),
	)
}

// load runs one phase.
func (r *run) load(ctx context.Context, stage string, events, healthy int) (Load, error) {
	r.phases++
	p := newPhase(fmt.Sprintf("%s-%d-", r.name, r.phases), r.config, events, healthy)
	r.receivers.phase.Store(p)
	unknown, forged := r.receivers.unknown.Load(), r.receivers.forged.Load()
	l := &load{
		config: r.config, phase: p, tenants: r.tenants, data: r.data, eventType: r.eventType(),
		events: fanfarev1.NewEventServiceClient(r.conn),
	}
	before, own, err := r.usage()
	if err != nil {
		return Load{}, err
	}
	result, err := l.run(ctx, func(done int) { r.tell(stage, done, p.owed()) })
	if err != nil {
		return Load{}, err
	}
	after, ownAfter, err := r.usage()
	if err != nil {
		return Load{}, err
	}
	report := p.report(result)
	report.Unknown = int(r.receivers.unknown.Load() - unknown)
	report.Forged = int(r.receivers.forged.Load() - forged)
	report.RepeatedCalls = int(l.refused.Load())
	cluster, bench := after.since(before), ownAfter.since(own)
	report.ClusterRSS, report.BenchRSS = cluster.RSSBytes, bench.RSSBytes
	if report.Delivered > 0 {
		report.ClusterCPU = cluster.CPUSeconds * 1e6 / float64(report.Delivered)
		report.BenchCPU = bench.CPUSeconds * 1e6 / float64(report.Delivered)
	}
	return report, nil
}

// usage returns what the cluster's processes and this one have used so far.
func (r *run) usage() (cluster, own Usage, err error) {
	for _, pid := range r.processes {
		one, err := usageOf(pid)
		if err != nil {
			return Usage{}, Usage{}, err
		}
		cluster.CPUSeconds += one.CPUSeconds
		cluster.RSSBytes += one.RSSBytes
	}
	own, err = usageOf(os.Getpid())
	return cluster, own, err
}

// baselines measures the plain clients.
func (r *run) baselines(ctx context.Context) ([]Raw, error) {
	if r.config.RawTime < 0 {
		return nil, nil
	}
	loop := rawLoop{
		url:         "http://" + r.receivers.hosts[0] + rawPath,
		body:        fmt.Appendf(nil, `{"type":%q,"timestamp":%q,"data":%s}`, r.eventType(), time.Now().UTC().Format(time.RFC3339Nano), r.data),
		signer:      signature.NewSigner(r.secret),
		connections: r.config.Connections,
		span:        r.config.RawTime,
	}
	var all []Raw
	for _, measure := range []func(context.Context) (Raw, error){loop.netHTTP, loop.fastHTTP} {
		r.tell("measuring the baselines", len(all), 2)
		raw, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, raw)
	}
	r.tell("measuring the baselines", 2, 2)
	return all, nil
}

// end takes away what the run has made, and ends the receivers.
func (r *run) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	var errs []error
	for _, name := range r.made {
		_, err := fanfarev1.NewSubscriptionServiceClient(r.conn).
			DeleteSubscription(ctx, &fanfarev1.DeleteSubscriptionRequest{Name: name})
		errs = append(errs, err)
	}
	for _, name := range r.tenants {
		_, err := fanfarev1.NewTenantServiceClient(r.conn).DeleteTenant(ctx, &fanfarev1.DeleteTenantRequest{Name: name})
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		errs = []error{fmt.Errorf("clearing away tenants %s-…: %w", r.name, err)}
	} else {
		errs = nil
	}
	return errors.Join(append(errs, r.receivers.close())...)
}
