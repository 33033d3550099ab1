package route

import (
	"hash/fnv"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// Every method says which partition it is about, but for those of the whole
// cluster: a new one cannot be forgotten.
func TestEveryMethodIsRouted(t *testing.T) {
	whole := []string{
		fanfarev1.TenantService_ListTenants_FullMethodName,
		fanfarev1.ClusterService_DescribeCluster_FullMethodName,
		fanfarev1.ClusterService_DrainMember_FullMethodName,
		linkv1.LinkService_Attach_FullMethodName, // a worker dials the leader itself
	}
	routed := methods()
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "fanfare.") {
			return true
		}
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				name := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				if _, ok := routed[name]; ok == slices.Contains(whole, name) {
					t.Errorf("%s is routed: %v", name, ok)
				}
			}
		}
		return true
	})
}

func TestAbout(t *testing.T) {
	config := Config{Partitions: 8, PartitionOf: func(tenant string) int {
		h := fnv.New32a()
		h.Write([]byte(tenant))
		return int(h.Sum32() % 8)
	}}
	of := config.PartitionOf("acme")
	tests := []struct {
		method  string
		request proto.Message
		want    int
		ok      bool
	}{
		{fanfarev1.EventService_Publish_FullMethodName, &fanfarev1.PublishRequest{Parent: "tenants/acme"}, of, true},
		{fanfarev1.EventService_Publish_FullMethodName, &fanfarev1.PublishRequest{Parent: "acme"}, 0, false},
		{fanfarev1.EventService_Publish_FullMethodName, &fanfarev1.PublishRequest{Parent: "tenants/"}, 0, false},
		{fanfarev1.EventService_GetEvent_FullMethodName, &fanfarev1.GetEventRequest{Name: "tenants/acme/events/e"}, of, true},
		{fanfarev1.TenantService_CreateTenant_FullMethodName, &fanfarev1.CreateTenantRequest{TenantId: "acme"}, of, true},
		{fanfarev1.TenantService_CreateTenant_FullMethodName, &fanfarev1.CreateTenantRequest{}, 0, false},
		{
			fanfarev1.SubscriptionService_UpdateSubscription_FullMethodName,
			&fanfarev1.UpdateSubscriptionRequest{Subscription: &fanfarev1.Subscription{Name: "tenants/acme/subscriptions/s"}}, of, true,
		},
		{fanfarev1.SubscriptionService_UpdateSubscription_FullMethodName, &fanfarev1.UpdateSubscriptionRequest{}, 0, false},
		{linkv1.PartitionService_DescribePartition_FullMethodName, &linkv1.DescribePartitionRequest{Partition: 7}, 7, true},
		{linkv1.PartitionService_DescribePartition_FullMethodName, &linkv1.DescribePartitionRequest{Partition: 8}, 8, false},
		{linkv1.PartitionService_DescribePartition_FullMethodName, &linkv1.DescribePartitionRequest{Partition: -1}, -1, false},
	}
	all := methods()
	for _, tt := range tests {
		got, ok := all[tt.method].about(tt.request, config)
		if ok != tt.ok || ok && got != tt.want {
			t.Errorf("%s with %v is about %d, %v; want %d, %v", tt.method, tt.request, got, ok, tt.want, tt.ok)
		}
	}
}

// What may be made again depends on what is known of the first try.
func TestAgain(t *testing.T) {
	moved := Unavailable(ReasonLeaderMoved, "moved")
	broken := status.Error(codes.Unavailable, "connection reset")
	tests := []struct {
		name         string
		o            outcome
		read, change bool // whether it may be made again
	}{
		{"success", outcome{sent: true}, false, false},
		{"an answer", outcome{err: status.Error(codes.NotFound, "no"), sent: true}, false, false},
		{"never sent", outcome{err: broken}, true, true},
		{"not the leader", outcome{err: Unavailable(ReasonNotLeader, "no"), sent: true}, true, true},
		{"the leader ended", outcome{err: moved, sent: true}, true, false},
		{"the connection broke", outcome{err: broken, sent: true}, true, false},
		{"a handler that says to wait", outcome{err: Unavailable("", "later"), sent: true}, false, false},
		{"a stream that has begun", outcome{err: Unavailable(ReasonNotLeader, "no"), sent: true, final: true}, false, false},
	}
	for _, tt := range tests {
		if read, change := tt.o.again(true), tt.o.again(false); read != tt.read || change != tt.change {
			t.Errorf("%s: again is %v for a read and %v for a change, want %v and %v", tt.name, read, change, tt.read, tt.change)
		}
	}
}

// The trace goes on with a call; what belongs to one connection, and secrets,
// do not.
func TestPassable(t *testing.T) {
	in := metadata.Pairs("traceparent", "00-1-2-01", "tracestate", "a=b", "x-request-id", "7",
		"authorization", "Bearer secret", ":authority", "a", "content-type", "application/grpc", "user-agent", "u",
		"grpc-timeout", "1S", "te", "trailers", "fanfare-caller-abc", "me", hopsHeader, "1")
	got := passable(in)
	for _, key := range []string{"traceparent", "tracestate", "x-request-id"} {
		if len(got.Get(key)) != 1 {
			t.Errorf("%s is not passed on", key)
		}
	}
	if len(got) != 3 {
		t.Errorf("passed on: %v", got)
	}
}
