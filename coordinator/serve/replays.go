package serve

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/history"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// maxRunningReplays bounds how many replays of a tenant run at a time.
const maxRunningReplays = 10

// errEnded says that there is nothing to cancel any more.
var errEnded = errors.New("the replay has ended")

// RetryDelivery implements DeliveryService.
func (s *Server) RetryDelivery(ctx context.Context, request *fanfarev1.RetryDeliveryRequest) (*fanfarev1.Delivery, error) {
	delivery, err := s.GetDelivery(ctx, &fanfarev1.GetDeliveryRequest{Name: request.GetName()})
	if err != nil {
		return nil, err
	}
	tenant, id, err := parseChild("name", delivery.GetName(), "deliveries")
	if err != nil {
		return nil, err
	}
	key, err := history.ParseDeliveryID(id)
	if err != nil {
		return nil, err
	}
	if state := delivery.GetState(); state == fanfarev1.Delivery_PENDING || state == fanfarev1.Delivery_DELIVERED {
		return nil, &Error{codes.FailedPrecondition, "name", fmt.Sprintf("is a delivery that is %s; only one that ended without success can be retried", state)}
	}
	leader, err := s.leader(ctx, tenant)
	if err != nil {
		return nil, err
	}
	bounds, err := leader.Bounds(ctx)
	if err != nil {
		return nil, err
	}
	err = leader.Change(ctx, "retry "+id, func(l *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
		if key.Sequence < max(bounds.First, l.KeptFrom()) {
			return &Error{codes.FailedPrecondition, "name", "is a delivery whose event the log no longer holds"}
		}
		subscription := l.Subscription(ledger.Number(key.Subscription))
		if subscription == nil {
			return &Error{codes.FailedPrecondition, "name", "is a delivery whose subscription was deleted"}
		}
		if l.Owes(ledger.Delivery{Subscription: subscription.Number, Position: ledger.Position{Sequence: key.Sequence, Index: key.Index}}) {
			return &Error{codes.FailedPrecondition, "name", "is a delivery that is owed again already"}
		}
		if lead.RoomToReadmit(l, subscription, record) == 0 {
			return &Error{codes.ResourceExhausted, "name", "is a delivery of a subscription that is owed as much as one may be now; " +
				"try again when some of that has ended, or create a replay, which waits for it"}
		}
		record.Readmits = append(record.Readmits, &linkv1.Readmit{
			Subscription: key.Subscription,
			Sequences:    []uint64{key.Sequence},
			Indexes:      []uint32{key.Index},
			Attempts:     []uint32{uint32(delivery.GetAttemptCount())}, //nolint:gosec // never negative
		})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.GetDelivery(ctx, &fanfarev1.GetDeliveryRequest{Name: request.GetName()})
}

// CreateReplay implements DeliveryService.
func (s *Server) CreateReplay(ctx context.Context, request *fanfarev1.CreateReplayRequest) (*fanfarev1.Replay, error) {
	tenant, err := parseTenant("parent", request.GetParent())
	if err != nil {
		return nil, err
	}
	replay, err := checkReplay(tenant, request.GetReplay())
	if err != nil {
		return nil, within("replay", err)
	}
	id, err := newID("rpl_")
	if err != nil {
		return nil, err
	}
	leader, err := s.leader(ctx, tenant)
	if err != nil {
		return nil, err
	}
	if err := s.followed(ctx, tenant); err != nil {
		return nil, err
	}
	stored := &linkv1.StoredReplay{Tenant: string(tenant), Replay: replay}
	if replay.MatchedCount, err = s.countMatches(ctx, stored); err != nil {
		return nil, err
	}
	if err := leader.Accepts(ctx); err != nil {
		return nil, err
	}
	err = leader.Change(ctx, "replays", func(l *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
		running := 0
		for _, other := range l.Replays() {
			r := l.Replay(other)
			if r.GetTenant() == string(tenant) && r.GetReplay().GetState() == fanfarev1.Replay_RUNNING {
				running++
			}
		}
		if running >= maxRunningReplays {
			return &Error{codes.ResourceExhausted, "", fmt.Sprintf("%d replays run already; at most %d may", running, maxRunningReplays)}
		}
		record.Replays = append(record.Replays, &linkv1.ReplayChange{Id: id, Put: stored})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return showReplay(id, stored), nil
}

// countMatches returns how many deliveries a replay will look at. Types can
// only be matched one by one.
func (s *Server) countMatches(ctx context.Context, stored *linkv1.StoredReplay) (count int64, err error) {
	query, types := lead.ReplayQuery(stored), stored.GetReplay().GetEventTypes()
	if len(types) == 0 {
		return s.History.Count(ctx, query)
	}
	var after history.DeliveryKey
	for {
		rows, err := s.History.Scan(ctx, query, after, maxPageSize)
		if err != nil || len(rows) == 0 {
			return count, err
		}
		for _, row := range rows {
			if ledger.Matches(types, row.EventType) {
				count++
			}
		}
		after = rows[len(rows)-1].Key
	}
}

// checkReplay says what is wrong with a replay, and fills in what was left out.
func checkReplay(tenant ledger.TenantID, given *fanfarev1.Replay) (*fanfarev1.Replay, error) {
	subscription, err := parseFilter("subscription", given.GetSubscription(), tenant, "subscriptions")
	if err != nil {
		return nil, err
	}
	if _, _, err := between(given.GetStartTime(), given.GetEndTime()); err != nil {
		return nil, err
	}
	replay := &fanfarev1.Replay{
		Subscription: subscription,
		StartTime:    given.GetStartTime(),
		EndTime:      given.GetEndTime(),
		States:       given.GetStates(),
		EventTypes:   given.GetEventTypes(),
		State:        fanfarev1.Replay_RUNNING,
		CreateTime:   timestamppb.Now(),
	}
	if replay.GetEndTime() == nil {
		replay.EndTime = replay.GetCreateTime()
	}
	if len(replay.GetStates()) == 0 {
		replay.States = []fanfarev1.Delivery_State{fanfarev1.Delivery_DEAD, fanfarev1.Delivery_EXPIRED}
	}
	for i, state := range replay.GetStates() {
		switch state {
		case fanfarev1.Delivery_DEAD, fanfarev1.Delivery_EXPIRED, fanfarev1.Delivery_CANCELLED, fanfarev1.Delivery_DELIVERED:
		case fanfarev1.Delivery_STATE_UNSPECIFIED, fanfarev1.Delivery_PENDING:
			return nil, invalid("states["+strconv.Itoa(i)+"]", "is %s; only deliveries that have ended can be replayed", state)
		default:
			return nil, invalid("states["+strconv.Itoa(i)+"]", "is %d, which is not a state", state)
		}
	}
	return replay, checkPatterns(replay.GetEventTypes())
}

// GetReplay implements DeliveryService.
func (s *Server) GetReplay(ctx context.Context, request *fanfarev1.GetReplayRequest) (*fanfarev1.Replay, error) {
	tenant, id, err := parseChild("name", request.GetName(), "replays")
	if err != nil {
		return nil, err
	}
	var found *linkv1.StoredReplay
	if err := s.read(ctx, tenant, func(l *ledger.Ledger) { found = l.Replay(id) }); err != nil {
		return nil, err
	}
	if found.GetTenant() != string(tenant) {
		return nil, notFound("replay", request.GetName())
	}
	return showReplay(id, found), nil
}

// ListReplays implements DeliveryService.
func (s *Server) ListReplays(ctx context.Context, request *fanfarev1.ListReplaysRequest) (*fanfarev1.ListReplaysResponse, error) {
	tenant, err := parseTenant("parent", request.GetParent())
	if err != nil {
		return nil, err
	}
	page, err := pageOf(request.GetPageSize(), request.GetPageToken())
	if err != nil {
		return nil, err
	}
	before, err := base64.RawURLEncoding.DecodeString(page.Token)
	if err != nil {
		return nil, history.ErrPageToken
	}
	response := new(fanfarev1.ListReplaysResponse)
	err = s.read(ctx, tenant, func(l *ledger.Ledger) {
		for _, id := range slices.Backward(l.Replays()) {
			stored := l.Replay(id)
			if stored.GetTenant() != string(tenant) || len(before) > 0 && id >= string(before) {
				continue
			}
			if len(response.GetReplays()) == page.Size {
				last := response.GetReplays()[page.Size-1].GetName()
				response.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(last[strings.LastIndexByte(last, '/')+1:]))
				return
			}
			response.Replays = append(response.Replays, showReplay(id, stored))
		}
	})
	return response, err
}

// CancelReplay implements DeliveryService.
func (s *Server) CancelReplay(ctx context.Context, request *fanfarev1.CancelReplayRequest) (*fanfarev1.Replay, error) {
	tenant, id, err := parseChild("name", request.GetName(), "replays")
	if err != nil {
		return nil, err
	}
	leader, err := s.leader(ctx, tenant)
	if err != nil {
		return nil, err
	}
	var stored *linkv1.StoredReplay
	err = leader.Change(ctx, "replay "+id, func(l *ledger.Ledger, _ ledger.Number, record *linkv1.Record) error {
		found := l.Replay(id)
		if found.GetTenant() != string(tenant) {
			return notFound("replay", request.GetName())
		}
		stored = found
		if found.GetReplay().GetState() != fanfarev1.Replay_RUNNING {
			return errEnded
		}
		stored = proto.CloneOf(found)
		stored.Replay.State = fanfarev1.Replay_CANCELLED
		stored.Replay.FinishTime = timestamppb.Now()
		stored.Lagging = nil
		record.Replays = append(record.Replays, &linkv1.ReplayChange{Id: id, Put: stored})
		return nil
	})
	if err != nil && !errors.Is(err, errEnded) {
		return nil, err
	}
	return showReplay(id, stored), nil
}

// showReplay returns a replay as clients see it.
func showReplay(id string, stored *linkv1.StoredReplay) *fanfarev1.Replay {
	replay := proto.CloneOf(stored.GetReplay())
	replay.Name = fmt.Sprintf("tenants/%s/replays/%s", stored.GetTenant(), id)
	if replay.GetSubscription() != "" {
		replay.Subscription = subscriptionName(ledger.TenantID(stored.GetTenant()), replay.GetSubscription())
	}
	return replay
}
