package serve

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/internal/history"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// maxSteps bounds the steps of statistics.
	maxSteps = 1500
	// defaultStep is the length of a step, and defaultTime what they make
	// together.
	defaultStep = time.Hour
	defaultTime = 24 * time.Hour
)

// GetStatistics implements DeliveryService.
func (s *Server) GetStatistics(ctx context.Context, request *fanfarev1.GetStatisticsRequest) (*fanfarev1.Statistics, error) {
	subscription, ok := strings.CutSuffix(request.GetName(), "/statistics")
	if !ok {
		return nil, invalid("name", "is %q; expected tenants/{tenant}/subscriptions/{subscription}/statistics", request.GetName())
	}
	tenant, id, err := parseChild("name", subscription, "subscriptions")
	if err != nil {
		return nil, err
	}
	steps, err := stepsOf(request, time.Now())
	if err != nil {
		return nil, err
	}
	if err := s.followed(ctx, tenant); err != nil {
		return nil, err
	}
	rows, err := s.History.Statistics(ctx, history.StatisticsQuery{
		Tenant: string(tenant), SubscriptionID: id, Start: steps.start, End: steps.end,
	})
	if err != nil {
		return nil, err
	}
	statistics := steps.sum(rows)
	statistics.Name = request.GetName()
	return statistics, nil
}

// steps is a time in equal parts; the last one may be shorter.
type steps struct {
	start, end time.Time
	length     time.Duration
}

func stepsOf(request *fanfarev1.GetStatisticsRequest, now time.Time) (s steps, err error) {
	if s.start, s.end, err = between(request.GetStartTime(), request.GetEndTime()); err != nil {
		return s, err
	}
	if s.end.IsZero() {
		s.end = now.UTC()
	}
	if s.start.IsZero() {
		s.start = s.end.Add(-defaultTime)
	}
	s.start = s.start.Truncate(time.Minute)
	if !s.start.Before(s.end) {
		return s, invalid("start_time", "is not before end_time")
	}
	s.length = defaultStep
	if request.GetStep() != nil {
		s.length = request.GetStep().AsDuration()
	}
	if s.length < time.Minute || s.length%time.Minute != 0 {
		return s, invalid("step", "is %v; expected whole minutes", s.length)
	}
	if s.end.Sub(s.start) > maxSteps*s.length {
		return s, invalid("step", "is %v, which makes more than %d steps of the time asked for", s.length, maxSteps)
	}
	return s, nil
}

// sum adds up the rows of each step, and of all. A row that is longer than a
// step counts to the one in which it begins.
func (s steps) sum(rows []history.StatisticsRow) *fanfarev1.Statistics {
	total, parts := &history.Counts{}, make(map[int64]*history.Counts)
	for _, row := range rows {
		n := int64(max(0, row.Start.Sub(s.start)) / s.length)
		if parts[n] == nil {
			parts[n] = &history.Counts{}
		}
		parts[n].Add(row.Counts)
		total.Add(row.Counts)
	}
	statistics := &fanfarev1.Statistics{Total: pointOf(total, s.start, s.end)}
	for n := range int64((s.end.Sub(s.start) + s.length - 1) / s.length) {
		if parts[n] == nil {
			continue
		}
		start := s.start.Add(time.Duration(n) * s.length)
		end := start.Add(s.length)
		if end.After(s.end) {
			end = s.end
		}
		statistics.Points = append(statistics.Points, pointOf(parts[n], start, end))
	}
	return statistics
}

func pointOf(c *history.Counts, start, end time.Time) *fanfarev1.StatisticsPoint {
	point := &fanfarev1.StatisticsPoint{
		StartTime:          timestamppb.New(start),
		EndTime:            timestamppb.New(end),
		AttemptCount:       int64(c.Attempts),  //nolint:gosec // no count is near 2^63
		FailedAttemptCount: int64(c.Failed),    //nolint:gosec // no count is near 2^63
		DeliveredCount:     int64(c.Delivered), //nolint:gosec // no count is near 2^63
		DeadCount:          int64(c.Dead),      //nolint:gosec // no count is near 2^63
		ExpiredCount:       int64(c.Expired),   //nolint:gosec // no count is near 2^63
		CancelledCount:     int64(c.Cancelled), //nolint:gosec // no count is near 2^63
	}
	for class, n := range c.Classes {
		if point.AttemptsByClass == nil {
			point.AttemptsByClass = make(map[string]int64)
		}
		point.AttemptsByClass[class] = int64(n) //nolint:gosec // no count is near 2^63
	}
	if c.Attempts > 0 {
		point.SuccessRatio = float64(c.Attempts-c.Failed) / float64(c.Attempts)
		point.LatencyP50 = durationpb.New(c.Latency.Quantile(0.50))
		point.LatencyP95 = durationpb.New(c.Latency.Quantile(0.95))
		point.LatencyP99 = durationpb.New(c.Latency.Quantile(0.99))
	}
	return point
}
