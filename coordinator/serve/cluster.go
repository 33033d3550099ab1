package serve

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/lead"
	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// describeTimeout bounds asking one leader how its partition is.
const describeTimeout = 2 * time.Second

// askLeader asks the leader of the partition that a request is about, wherever
// it is.
func askLeader[Q, R any](ctx context.Context, s *Server, method string, request *Q, here func(context.Context, *Q) (*R, error)) (*R, error) {
	answer, err := s.Route(ctx, request, &grpc.UnaryServerInfo{Server: s, FullMethod: method},
		func(ctx context.Context, _ any) (any, error) {
			response, err := here(ctx, request)
			return response, statusOf(err)
		})
	response, _ := answer.(*R)
	return response, err
}

// DescribeCluster implements ClusterService.
func (s *Server) DescribeCluster(ctx context.Context, _ *fanfarev1.DescribeClusterRequest) (*fanfarev1.Cluster, error) {
	cluster, _, err := s.Survey(ctx)
	return cluster, err
}

// merge adds to what the cluster's keys say what the leaders do.
func merge(cluster *fanfarev1.Cluster, leaders []*linkv1.DescribePartitionResponse) {
	type place struct{ partition, slot int32 }
	owned := make(map[place]*fanfarev1.Shard)
	for _, shard := range cluster.GetShards() {
		owned[place{shard.GetPartition(), shard.GetSlot()}] = shard
	}
	for i, answer := range leaders {
		cluster.Problems = append(cluster.Problems, answer.GetProblems()...)
		if answer.GetPartition() == nil {
			continue
		}
		answer.Partition.Chosen = cluster.GetPartitions()[i].GetChosen()
		cluster.Partitions[i] = answer.GetPartition()
		for _, shard := range answer.GetShards() {
			// What the cluster says of owners is what counts: the leader
			// learns it when the owner attaches.
			if known := owned[place{shard.GetPartition(), shard.GetSlot()}]; known != nil {
				known.Attached = shard.GetAttached() && shard.GetWorker() == known.GetWorker()
				known.Subscriptions, known.InFlight = shard.GetSubscriptions(), shard.GetInFlight()
			}
		}
	}
	for _, shard := range cluster.GetShards() {
		if shard.GetWorker() == "" && shard.GetSubscriptions() > 0 {
			cluster.Problems = append(cluster.Problems,
				fmt.Sprintf("shard %d/%d has subscriptions and no worker", shard.GetPartition(), shard.GetSlot()))
		}
	}
}

// describePartitions asks all leaders at once how their partitions are. What
// one does not answer in time is a problem.
func (s *Server) describePartitions(ctx context.Context, partitions []*fanfarev1.Partition) []*linkv1.DescribePartitionResponse {
	answers := make([]*linkv1.DescribePartitionResponse, len(partitions))
	var asking sync.WaitGroup
	for i, partition := range partitions {
		asking.Go(func() {
			id := int(partition.GetId())
			if _, err := s.Directory.Leader(id); err != nil && partition.GetLeader() == "" {
				answers[i] = new(linkv1.DescribePartitionResponse)
				if s.Directory.Halted(id) == nil { // else that is a problem already
					answers[i].Problems = []string{fmt.Sprintf("partition %d has no leader", id)}
				}
				return
			}
			bounded, cancel := context.WithTimeout(ctx, describeTimeout)
			defer cancel()
			request := &linkv1.DescribePartitionRequest{Partition: partition.GetId()}
			answer, err := askLeader(bounded, s, linkv1.PartitionService_DescribePartition_FullMethodName, request, s.DescribePartition)
			if err != nil {
				answer = &linkv1.DescribePartitionResponse{
					Problems: []string{fmt.Sprintf("partition %d: %s", id, status.Convert(err).Message())},
				}
			}
			answers[i] = answer
		})
	}
	asking.Wait()
	return answers
}

// DescribePartition implements PartitionService.
func (s *Server) DescribePartition(ctx context.Context, request *linkv1.DescribePartitionRequest) (*linkv1.DescribePartitionResponse, error) {
	leader, err := s.Directory.Leader(int(request.GetPartition()))
	if err != nil {
		return nil, err
	}
	response := new(linkv1.DescribePartitionResponse)
	response.Partition, response.Shards, err = leader.Describe(ctx)
	if err != nil {
		return nil, err
	}
	err = leader.Query(ctx, func(l *ledger.Ledger) {
		for _, id := range s.builtInOf(int(request.GetPartition())) {
			if l.Tenant(id) == nil {
				response.Partition.Tenants++ // it is there without having been put
			}
		}
	})
	if err != nil {
		return nil, err
	}
	if err := s.describeTroubles(ctx, leader, response); err != nil {
		return nil, err
	}
	if problem, err := leader.Problem(ctx); err == nil && problem != "" {
		response.Problems = append(response.Problems, problem)
	}
	return response, nil
}

// describeTroubles says what of a partition may need attention.
func (s *Server) describeTroubles(ctx context.Context, leader *lead.Leader, response *linkv1.DescribePartitionResponse) (err error) {
	if refusal := leader.Accepts(ctx); refusal != nil {
		if errors.Is(refusal, lead.ErrNotLeading) || ctx.Err() != nil {
			return refusal
		}
		response.Refusal = refusal.Error()
	}
	if response.Silent, err = leader.Silent(ctx); err != nil {
		return err
	}
	ends, err := leader.CertificatesEnd(ctx)
	if err != nil {
		return err
	}
	if s.CertificateEnds != nil {
		ends[response.GetPartition().GetLeader()] = s.CertificateEnds()
	}
	for _, member := range slices.Sorted(maps.Keys(ends)) {
		response.Certificates = append(response.Certificates, &linkv1.CertificateExpiry{
			Member: member, ExpireTime: timestamppb.New(ends[member]),
		})
	}
	return nil
}

// Survey is DescribeCluster for those who look after the cluster: with what the
// leaders themselves have said, by partition.
func (s *Server) Survey(ctx context.Context) (*fanfarev1.Cluster, []*linkv1.DescribePartitionResponse, error) {
	cluster, err := s.Directory.Describe(ctx)
	if err != nil {
		return nil, nil, err
	}
	leaders := s.describePartitions(ctx, cluster.GetPartitions())
	merge(cluster, leaders)
	return cluster, leaders, nil
}

// DrainMember implements ClusterService.
func (s *Server) DrainMember(ctx context.Context, request *fanfarev1.DrainMemberRequest) (*fanfarev1.Member, error) {
	if request.GetMember() == "" {
		return nil, invalid("member", "is empty")
	}
	return s.Directory.Drain(ctx, request.GetMember(), !request.GetUndo())
}

// Readiness says whether a process serves, and what is wrong.
type Readiness struct {
	Serves   bool
	Problems []string // also of a process that serves
}

// Ready reports whether every partition is led, and those that are led here
// answer.
// Those that are halted do not count, as long as there are others: no other
// process could serve them, and the others are served.
func (s *Server) Ready(ctx context.Context) Readiness {
	ready := Readiness{Serves: true}
	halted := 0
	for partition := range s.Directory.Partitions() {
		if err := s.Directory.Halted(partition); err != nil {
			ready.Problems = append(ready.Problems, err.Error())
			halted++
			continue
		}
		if err := s.answers(ctx, partition); err != nil {
			ready.Serves = false
			ready.Problems = append(ready.Problems, status.Convert(err).Message())
		}
	}
	ready.Serves = ready.Serves && halted < s.Directory.Partitions()
	return ready
}

// answers returns an error if the leader of a partition does not.
func (s *Server) answers(ctx context.Context, partition int) error {
	leader, err := s.Directory.Leader(partition)
	if err != nil {
		if s.Directory.LedElsewhere(partition) {
			return nil
		}
		return err
	}
	if err := leader.Query(ctx, func(*ledger.Ledger) {}); err != nil {
		return fmt.Errorf("partition %d: %w", partition, err)
	}
	return nil
}
