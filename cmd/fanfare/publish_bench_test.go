package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// publishersPerConnection is how many publishers of the benchmark share a
// connection.
const publishersPerConnection = 64

// BenchmarkPublish is events of 1 KiB, one a call, over gRPC on loopback, until
// they are synced to the disk by the embedded NATS: with so many callers at a
// time. All are of one tenant, so of one partition. A record is one sync.
func BenchmarkPublish(b *testing.B) {
	for _, publishers := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("publishers=%d", publishers), func(b *testing.B) {
			address := serveDev(b)
			conns := dialMany(b, address, (publishers+publishersPerConnection-1)/publishersPerConnection)
			publishAll(b, conns, publishers, publishers) // so that every connection is there
			before := lastSequences(b, conns[0])
			b.ReportAllocs()
			b.SetBytes(1 << 10)
			b.ResetTimer()
			took := publishAll(b, conns, publishers, b.N)
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(lastSequences(b, conns[0])-before)/float64(b.N), "syncs/event")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1e3, "p99-ms")
		})
	}
}

// serveDev runs what `fanfare dev` runs until the benchmark ends, in this
// process, so that it can be profiled.
func serveDev(b *testing.B) (address string) {
	b.Helper()
	config := devConfig{
		dataDir: b.TempDir(), grpcAddress: "127.0.0.1:0", httpAddress: "127.0.0.1:0", workers: 1, partitions: 4,
	}
	logger := slog.New(slog.DiscardHandler)
	engines, err := embedEngines(b.Context(), config.dataDir, "", logger)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := engines.close(); err != nil {
			b.Error(err)
		}
	})
	parts := &node{
		security: new(security), egress: egressConfig{allowHTTP: true, allowLoopback: true}, leaseTTL: devTTL, logger: logger,
	}
	if err := config.fill(parts, engines); err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(b.Context()))
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- parts.run(ctx, func(context.Context) error { close(ready); return nil })
	}()
	b.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		b.Fatalf("starting: %v", err)
	}
	return parts.grpcAddress
}

func dialMany(b *testing.B, address string, count int) (conns []*grpc.ClientConn) {
	b.Helper()
	for range count {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := conn.Close(); err != nil {
				b.Error(err)
			}
		})
		conns = append(conns, conn)
	}
	return conns
}

// publishAll has some publishers publish so many events together, and returns
// how long each call took.
func publishAll(b *testing.B, conns []*grpc.ClientConn, publishers, events int) []time.Duration {
	b.Helper()
	data := fmt.Appendf(nil, "%q", bytes.Repeat([]byte("x"), 1<<10-2))
	took := make([]time.Duration, events)
	var next atomic.Int64
	var running sync.WaitGroup
	for i := range publishers {
		client := fanfarev1.NewEventServiceClient(conns[i%len(conns)])
		running.Go(func() {
			for n := next.Add(1) - 1; n < int64(events); n = next.Add(1) - 1 {
				began := time.Now()
				_, err := client.Publish(b.Context(), &fanfarev1.PublishRequest{
					Parent: demoTenant,
					Events: []*fanfarev1.Event{{Type: "order.created", Data: data, DataContentType: "application/json"}},
				})
				if err != nil {
					b.Error(err)
					return
				}
				took[n] = time.Since(began)
			}
		})
	}
	running.Wait()
	return took
}

// lastSequences returns how many records all logs have got.
func lastSequences(b *testing.B, conn *grpc.ClientConn) (sum uint64) {
	b.Helper()
	described, err := fanfarev1.NewClusterServiceClient(conn).DescribeCluster(b.Context(), &fanfarev1.DescribeClusterRequest{})
	if err != nil {
		b.Fatal(err)
	}
	for _, p := range described.GetPartitions() {
		sum += p.GetLastSequence()
	}
	return sum
}
