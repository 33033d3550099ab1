package lead

import (
	"context"
	"sync"
)

// queue hands values from the loop to one goroutine without the loop ever
// waiting. What bounds it is said where it is used.
type queue[T any] struct {
	mu     sync.Mutex
	items  []T           // guarded by mu
	filled chan struct{} // capacity 1: there are items
}

func newQueue[T any]() *queue[T] {
	return &queue[T]{filled: make(chan struct{}, 1)}
}

func (q *queue[T]) put(item T) {
	q.mu.Lock()
	q.items = append(q.items, item)
	q.mu.Unlock()
	select {
	case q.filled <- struct{}{}:
	default:
	}
}

// take returns all that was put since the last take, waiting for the first.
func (q *queue[T]) take(ctx context.Context) ([]T, error) {
	for {
		q.mu.Lock()
		items := q.items
		q.items = nil
		q.mu.Unlock()
		if len(items) > 0 {
			return items, nil
		}
		select {
		case <-q.filled:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
