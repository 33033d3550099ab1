package main

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func (f *fake) ExportEvents(
	request *fanfarev1.ExportEventsRequest, stream grpc.ServerStreamingServer[fanfarev1.ExportEventsResponse],
) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests["ExportEvents"] = request // no stream is intercepted
	page, err := f.ListEvents(stream.Context(), &fanfarev1.ListEventsRequest{
		Parent: request.GetParent(), Type: request.GetType(), PageSize: 1000,
	})
	for _, e := range page.GetEvents() {
		if err = stream.Send(&fanfarev1.ExportEventsResponse{Event: e}); err != nil {
			return err
		}
	}
	return err
}

func (f *fake) ExportDeliveries(
	request *fanfarev1.ExportDeliveriesRequest, stream grpc.ServerStreamingServer[fanfarev1.ExportDeliveriesResponse],
) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests["ExportDeliveries"] = request
	page, err := f.ListDeliveries(stream.Context(), &fanfarev1.ListDeliveriesRequest{
		Parent: request.GetParent(), State: request.GetState(), Subscription: request.GetSubscription(), PageSize: 1000,
	})
	for _, d := range page.GetDeliveries() {
		line := &fanfarev1.ExportDeliveriesResponse{Delivery: d}
		if a := f.attempts[d.GetName()]; a != nil && request.GetWithAttempts() {
			line.Attempts = append(line.Attempts, a)
		}
		if err = stream.Send(line); err != nil {
			return err
		}
	}
	return err
}

// GetStatistics tells of one hour, of whatever subscription there is.
func (f *fake) GetStatistics(_ context.Context, request *fanfarev1.GetStatisticsRequest) (*fanfarev1.Statistics, error) {
	point := &fanfarev1.StatisticsPoint{
		StartTime: &timestamppb.Timestamp{Seconds: 1767366000}, AttemptCount: 8, FailedAttemptCount: 2,
		AttemptsByClass: map[string]int64{"2xx": 6, "timeout": 2}, DeliveredCount: 6, DeadCount: 1, SuccessRatio: 0.75,
		LatencyP50: durationpb.New(12 * time.Millisecond), LatencyP95: durationpb.New(80 * time.Millisecond),
		LatencyP99: durationpb.New(2 * time.Second),
	}
	return &fanfarev1.Statistics{Name: request.GetName(), Total: point, Points: []*fanfarev1.StatisticsPoint{point}}, nil
}
