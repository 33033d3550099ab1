package coordinator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/coordinator/notify"
	"github.com/fanfare-dev/fanfare/coordinator/serve"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// surveyInterval is how often the assigner looks for what is wrong with the
	// cluster, and selfInterval how often a coordinator looks at itself.
	surveyInterval = 15 * time.Second
	selfInterval   = 5 * time.Second
	// surveyTimeout bounds asking for what is kept of alerts, and keeping them:
	// those who are told do not wait for it any longer.
	surveyTimeout = 3 * time.Second
	// learnInterval is how often a coordinator asks for the rules while nothing
	// is wrong with it.
	learnInterval = time.Minute
)

const (
	systemTenant = string(serve.SystemTenant)
	systemName   = "tenants/" + systemTenant
)

// monitor looks after what no leader of a partition sees, and tells who is to
// be told. What it has told is kept among the alerts of the system's tenant,
// when there is somebody to keep it: it does not wait for that, since that
// nobody keeps anything may be what is wrong. One goroutine.
type monitor struct {
	coordinator *Coordinator
	source      string
	board       *alert.Board
	rules       alert.Rules
	learned     time.Time // when the rules were asked for
	restored    bool
	unkept      []*linkv1.AlertChange // changes that are to be kept, oldest first
}

func (c *Coordinator) newMonitor(source string) *monitor {
	return &monitor{coordinator: c, source: source, board: alert.NewBoard(0)}
}

// watchCluster looks after the cluster until ctx ends: the assigner does.
func (c *Coordinator) watchCluster(ctx context.Context) error {
	m := c.newMonitor(lead.ClusterSource)
	defer c.told.Forget(m.source)
	return m.every(ctx, surveyInterval, func() bool { return true }, m.survey)
}

// watchSelf looks after this coordinator until ctx ends.
func (c *Coordinator) watchSelf(ctx context.Context) error {
	m := c.newMonitor("members/" + string(c.self()))
	defer c.told.Forget(m.source)
	return m.every(ctx, selfInterval, func() bool { return c.hasLived() }, m.lookInward)
}

// every looks again and again, once it is worth while.
func (m *monitor) every(ctx context.Context, interval time.Duration, begun func() bool, look func(context.Context)) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !begun() {
			continue
		}
		look(ctx)
		m.advance(ctx)
	}
}

// survey looks at the cluster.
func (m *monitor) survey(ctx context.Context) {
	c := m.coordinator
	described, leaders, err := c.api.Survey(ctx)
	if err != nil {
		return
	}
	m.learn(ctx)
	seen := alert.Cluster{Shards: described.GetShards(), Engines: described.GetEngines(), CertificatesEnd: make(map[string]time.Time)}
	for i, partition := range described.GetPartitions() {
		answer := leaders[i]
		p := alert.Partition{
			ID: partition.GetId(), Led: partition.GetLeader() != "", Unknown: answer.GetPartition() == nil,
			Refuses: answer.GetRefusal(), Silent: answer.GetSilent(), Lag: partition.GetHistoryLag(),
		}
		if halted := c.Halted(int(partition.GetId())); halted != nil && !p.Led {
			p.Halted = halted.Error()
		}
		seen.Partitions = append(seen.Partitions, p)
		for _, certificate := range answer.GetCertificates() {
			seen.CertificatesEnd[certificate.GetMember()] = certificate.GetExpireTime().AsTime()
		}
	}
	now := time.Now()
	take := func(condition alert.Condition) { m.board.Take(now, condition) }
	alert.Survey(seen, systemTenant, m.rules, take)
	alert.SurveyCertificates(seen, systemTenant, m.rules, now, take)
	for _, key := range m.board.Keys() {
		if id, ok := strings.CutPrefix(key.Object, "members/"); ok && !slices.ContainsFunc(described.GetMembers(),
			func(member *fanfarev1.Member) bool { return member.GetId() == id }) {
			m.board.Take(now, alert.Condition{Key: key, Rule: m.rules.Of(key.Kind), Gone: true})
		}
	}
}

// lookInward looks at this coordinator.
func (m *monitor) lookInward(ctx context.Context) {
	c := m.coordinator
	now := time.Now()
	if !m.restored || !m.board.Idle() || now.Sub(m.learned) >= learnInterval {
		m.learn(ctx)
	}
	alert.SurveyMember(alert.Member{ID: string(c.self()), Doubt: c.doubt(), Margin: c.margin()}, systemTenant, m.rules,
		func(condition alert.Condition) { m.board.Take(now, condition) })
}

// learn asks what rules there are and, at first, which alerts are kept. Without
// an answer it goes on with what it knows.
func (m *monitor) learn(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	c := m.coordinator
	m.learned = time.Now()
	listed, err := ask(ctx, c, fanfarev1.AlertService_ListAlertRules_FullMethodName,
		&fanfarev1.ListAlertRulesRequest{Parent: systemName}, c.api.ListAlertRules)
	if err == nil {
		m.rules.Tenant = listed.GetAlertRules()
	}
	if m.restored {
		return
	}
	kept, err := m.record(ctx, nil)
	if err != nil {
		return
	}
	m.restored = true
	now := time.Now()
	var firing []*fanfarev1.Alert
	for _, change := range kept {
		stored := change.GetPut()
		if stored.GetSource() != m.source && m.lives(stored.GetSource()) {
			continue
		}
		if m.board.Knows(alert.KeyOf(systemTenant, stored.GetAlert())) {
			continue
		}
		m.board.Restore(now, systemTenant, stored.GetAlert(), stored.GetTold())
		if stored.GetTold() && stored.GetAlert().GetState() == fanfarev1.Alert_FIRING {
			firing = append(firing, alert.Show(systemTenant, change.GetId(), stored.GetAlert(), c.config.AlertLink))
		}
	}
	c.told.Remind(m.source, firing)
}

// lives reports whether a member looks after its own alerts.
func (m *monitor) lives(source string) bool {
	id, ok := strings.CutPrefix(source, "members/")
	now, _ := m.coordinator.view.now()
	_, found := now.members[cluster.MemberID(id)]
	return ok && found
}

// advance fires, repeats and resolves what it is time for.
func (m *monitor) advance(ctx context.Context) {
	changes := m.board.Advance(time.Now())
	link := m.coordinator.config.AlertLink
	for _, what := range alert.Group(changes, link) {
		m.coordinator.told.Tell(m.source, what)
	}
	for _, change := range changes {
		if change.Tell {
			change = m.board.Told(time.Now(), change)
		}
		if !change.Kept {
			m.unkept = append(m.unkept, m.stored(change))
		}
	}
	m.keep(ctx)
}

func (m *monitor) stored(change alert.Change) *linkv1.AlertChange {
	if change.Alert == nil {
		return &linkv1.AlertChange{Id: change.ID}
	}
	return &linkv1.AlertChange{
		Id:  change.ID,
		Put: &linkv1.StoredAlert{Tenant: systemTenant, Alert: change.Alert, Told: change.Told, Source: m.source},
	}
}

// keep has the leader of the system's tenant keep what has changed, or leaves
// it for the next time.
func (m *monitor) keep(ctx context.Context) {
	if len(m.unkept) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	if _, err := m.record(ctx, m.unkept); err != nil {
		m.unkept = m.unkept[max(0, len(m.unkept)-alert.DefaultLimit):]
		return
	}
	m.unkept = nil
}

func (m *monitor) record(ctx context.Context, changes []*linkv1.AlertChange) ([]*linkv1.AlertChange, error) {
	c := m.coordinator
	answer, err := ask(ctx, c, linkv1.PartitionService_RecordAlerts_FullMethodName,
		&linkv1.RecordAlertsRequest{Parent: systemName, Source: m.source, Changes: changes}, c.api.RecordAlerts)
	return answer.GetAlerts(), err
}

// ask makes a call of the API from inside, wherever it is served.
func ask[Q, R any](ctx context.Context, c *Coordinator, method string, request *Q, here func(context.Context, *Q) (*R, error)) (*R, error) {
	answer, err := c.router.Unary(ctx, request, &grpc.UnaryServerInfo{Server: c.api, FullMethod: method},
		func(ctx context.Context, _ any) (any, error) {
			return serve.UnaryErrors(ctx, request, nil, func(ctx context.Context, _ any) (any, error) { return here(ctx, request) })
		})
	response, _ := answer.(*R)
	return response, err
}

// hasLived reports whether this coordinator was a member once: one that starts
// has nothing to doubt yet.
func (c *Coordinator) hasLived() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lived
}

// margin returns the share of the lease that is left; 1 without one.
func (c *Coordinator) margin() float64 {
	c.mu.Lock()
	member := c.life
	c.mu.Unlock()
	if member == nil {
		return 1
	}
	return member.CertainShare()
}

// events is a notify.Sink that publishes alerts as events of the system's
// tenant: operational webhooks.
type events struct{ coordinator *Coordinator }

var _ notify.Sink = events{}

// Name implements notify.Sink.
func (events) Name() string { return "events" }

// Send implements notify.Sink. What concerns the system's own subscriptions is
// not published: it would be sent to them, and fail. Each event has an id that
// is the same when it is published again.
func (e events) Send(ctx context.Context, what alert.Notification) error {
	var published []*fanfarev1.Event
	for _, a := range what.Alerts {
		if strings.HasPrefix(a.GetSubscription(), systemName+"/") {
			continue
		}
		event, err := eventOf(a, what.Repeated)
		if err != nil {
			return &notify.PermanentError{Err: err}
		}
		published = append(published, event)
	}
	c := e.coordinator
	for chunk := range slices.Chunk(published, serve.MaxEvents/2) {
		if _, err := ask(ctx, c, fanfarev1.EventService_Publish_FullMethodName,
			&fanfarev1.PublishRequest{Parent: systemName, Events: chunk}, c.api.Publish); err != nil {
			return err
		}
	}
	return nil
}

// eventOf returns the event that says what has happened to an alert.
func eventOf(a *fanfarev1.Alert, repeated bool) (*fanfarev1.Event, error) {
	firing := a.GetState() == fanfarev1.Alert_FIRING
	data, err := protojson.MarshalOptions{}.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("encoding an alert: %w", err)
	}
	id := strings.TrimPrefix(a.GetName()[strings.LastIndexByte(a.GetName(), '/')+1:], "alr_")
	about, at := a.GetSubscription(), a.GetStartTime()
	if about == "" {
		about = a.GetObject()
	}
	what := "fires"
	switch {
	case !firing:
		what, at = "ends", a.GetEndTime()
	case repeated:
		what, at = "again", a.GetNotifyTime() // when it was said before
	}
	return &fanfarev1.Event{
		Id:      fmt.Sprintf("alert-%s-%s-%d", id, what, at.AsTime().UnixMilli()),
		Type:    alert.Kind(a.GetKind()).EventType(firing),
		Source:  "/alerts",
		Subject: about,
		Data:    data,
	}, nil
}

// newTold returns who is told of alerts.
func (c *Coordinator) newTold() (notify.All, error) {
	queue, err := notify.NewQueue(events{c}, notify.Config{Logger: c.logger, Meter: c.config.Meter})
	if err != nil {
		return nil, err
	}
	return append(notify.All{queue}, c.config.Told...), nil
}
