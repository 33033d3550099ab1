package sim

import (
	"context"
	"fmt"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/fanfare-dev/fanfare/internal/eventlog"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
)

// reserving is a store of logs that can come to its soft limit: then it takes
// no events any more, and everything else as before.
type reserving struct {
	eventlog.Store
	full atomic.Bool
}

// Open implements eventlog.Store.
func (s *reserving) Open(ctx context.Context, partition int) (eventlog.Log, error) {
	log, err := s.Store.Open(ctx, partition)
	if err != nil {
		return nil, err
	}
	return &reservingLog{log, s}, nil
}

type reservingLog struct {
	eventlog.Log
	store *reserving
}

// Append implements eventlog.Log.
func (l *reservingLog) Append(prev uint64, data []byte) <-chan error {
	record := new(linkv1.Record)
	if l.store.full.Load() && proto.Unmarshal(data, record) == nil && len(record.GetEvents()) > 0 {
		refused := make(chan error, 1)
		refused <- fmt.Errorf("%w: what is left is reserved", eventlog.ErrNoSpace)
		return refused
	}
	return l.Log.Append(prev, data)
}
