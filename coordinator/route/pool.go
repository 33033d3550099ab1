package route

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

const (
	// pingInterval and pingTimeout find connections whose other end has gone
	// without a word.
	pingInterval = 10 * time.Second
	pingTimeout  = 5 * time.Second
	// connectTimeout bounds connecting to another coordinator.
	connectTimeout = 3 * time.Second
	// maxReconnect is the longest pause between two attempts to connect.
	maxReconnect = time.Second
)

// pool keeps one connection to each coordinator that was ever forwarded to;
// gRPC closes those that are idle. Safe for concurrent use.
type pool struct {
	options []grpc.DialOption

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn // guarded by mu; :: address; nil once closed
}

func newPool(options []grpc.DialOption, maxReceiveBytes int) *pool {
	return &pool{
		conns: make(map[string]*grpc.ClientConn),
		options: append([]grpc.DialOption{
			grpc.WithNoProxy(),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: maxReconnect / 10, Multiplier: 2, Jitter: 0.2, MaxDelay: maxReconnect},
				MinConnectTimeout: connectTimeout,
			}),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: pingTimeout}),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceiveBytes)),
		}, options...),
	}
}

// get returns the connection to an address. It does not wait until it is made.
func (p *pool) get(address string) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return nil, errors.New("the coordinator has ended")
	}
	if conn := p.conns[address]; conn != nil {
		return conn, nil
	}
	conn, err := grpc.NewClient("passthrough:///"+address, p.options...)
	if err != nil {
		return nil, fmt.Errorf("dialling the leader: %w", err)
	}
	p.conns[address] = conn
	return conn, nil
}

// close closes all connections, for good.
func (p *pool) close() error {
	p.mu.Lock()
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	var errs []error
	for _, conn := range conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}
