package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// DefaultPrefix begins the names of the streams.
	DefaultPrefix = "FANFARE"
	// DefaultAppendTimeout is how long an append waits for its answer.
	DefaultAppendTimeout = 10 * time.Second

	// minPayload is what a server must accept: a record of MaxRecordBytes with
	// its headers.
	minPayload = 1 << 20
	// readTimeout bounds one Read, whatever its context allows.
	readTimeout = 10 * time.Second
	// fewRecords are asked for one by one. A consumer costs half a millisecond
	// to set up, and a decision of the whole cluster if there is one: a hundred
	// on busy servers.
	fewRecords = 8
	// duplicates is how long a stream remembers the ids of its records to
	// refuse the same one again. None comes twice; the stream must only know
	// the last one, and memory for two minutes of them, the server's default,
	// would be wasted.
	duplicates = time.Second
	// reconnectWait is the pause between two attempts to reach a server.
	reconnectWait = 250 * time.Millisecond
)

// Error codes of nats-server that the client library does not name. See
// errors.json in its source.
const (
	codeAccountResources    jetstream.ErrorCode = 10002
	codeInsufficient        jetstream.ErrorCode = 10023
	codeStorageResources    jetstream.ErrorCode = 10047
	codeWrongLastID         jetstream.ErrorCode = 10070
	codeStoreFailed         jetstream.ErrorCode = 10077 // what failed is in the description
	storeFailedMaximumBytes                     = "maximum bytes exceeded"
	storeFailedTooLarge                         = "message too large"
)

// JetStreamConfig says how logs are kept in JetStream. Its zero value is the
// default.
type JetStreamConfig struct {
	// Prefix names the streams: with FANFARE, the default, partition 3 is
	// stream FANFARE_3 on subject fanfare.log.3, and its snapshots are stream
	// FANFARE_SNAPSHOTS_3 on subject fanfare.snapshots.3.
	Prefix string
	// Replicas of each stream. Default 1.
	Replicas int
	// AppendTimeout is how long an append waits for its answer before its
	// outcome is unknown. Default DefaultAppendTimeout.
	AppendTimeout time.Duration
	// MaxBytes limits each log; an append beyond it ends with ErrNoSpace.
	// Default 0: only the disk does.
	MaxBytes int64
	// Logger hears of snapshots that cannot be read. Default: nobody does.
	Logger *slog.Logger
}

func (c JetStreamConfig) withDefaults() JetStreamConfig {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.AppendTimeout == 0 {
		c.AppendTimeout = DefaultAppendTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c JetStreamConfig) validate() error {
	switch {
	case !regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(c.Prefix):
		return fmt.Errorf("prefix %q: only letters, digits, _ and - can name a stream", c.Prefix)
	case c.Replicas < 0:
		return fmt.Errorf("replicas %d: must not be negative", c.Replicas)
	case c.AppendTimeout < 0:
		return fmt.Errorf("append timeout %v: must not be negative", c.AppendTimeout)
	case c.MaxBytes < 0:
		return fmt.Errorf("max bytes %d: must not be negative", c.MaxBytes)
	}
	return nil
}

// ConnectOptions are how a connection that logs live on should be made: it
// reconnects for as long as it takes, tells the logger, and holds nothing
// back while it is away. An append made then fails at once; buffered, it
// would arrive long after it was given up.
func ConnectOptions(logger *slog.Logger) []nats.Option {
	return []nats.Option{
		nats.Name("fanfare"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				logger.Warn("lost the connection to NATS", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			logger.Info("reconnected to NATS", "server", nc.ConnectedServerName())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			logger.Warn("NATS connection", "error", err)
		}),
	}
}

// JetStream is a Store over NATS JetStream. It is safe for concurrent use.
type JetStream struct {
	nc  *nats.Conn
	js  jetstream.JetStream
	cfg JetStreamConfig
}

// NewJetStream makes a Store over a connection, which should have been made
// with ConnectOptions and remains the caller's to close, after the logs.
func NewJetStream(nc *nats.Conn, cfg JetStreamConfig) (*JetStream, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("validating JetStream config: %w", err)
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncTimeout(cfg.AppendTimeout))
	if err != nil {
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	return &JetStream{nc: nc, js: js, cfg: cfg}, nil
}

// Open implements Store. Whatever the streams are now, it makes them what
// they should be: a server that crashed while creating a stream does not know
// it at the next start, although its directory is there. Creating the stream
// again recovers the records that are in it.
func (s *JetStream) Open(ctx context.Context, partition int) (Log, error) {
	if partition < 0 {
		return nil, fmt.Errorf("opening log: partition %d is negative", partition)
	}
	if limit := s.nc.MaxPayload(); limit != 0 && limit < minPayload {
		return nil, fmt.Errorf("opening log: the server's max_payload is %d bytes, records need %d", limit, minPayload)
	}
	snapshots, err := s.open(ctx, s.streamConfig("snapshots", fmt.Sprintf("%s_SNAPSHOTS_%d", s.cfg.Prefix, partition), partition))
	if err != nil {
		return nil, fmt.Errorf("opening snapshots of partition %d: %w", partition, err)
	}
	cfg := s.streamConfig("log", fmt.Sprintf("%s_%d", s.cfg.Prefix, partition), partition)
	cfg.MaxBytes, cfg.DenyDelete = s.cfg.MaxBytes, true
	log, err := s.open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening log of partition %d: %w", partition, err)
	}
	return &partitionLog{records: log, snapshots: snapshots, logger: s.cfg.Logger.With("partition", partition)}, nil
}

// streamConfig is what the streams of logs and of snapshots have in common.
// Direct gets stay off: a replica that is behind would answer them.
func (s *JetStream) streamConfig(kind, name string, partition int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:       name,
		Subjects:   []string{fmt.Sprintf("%s.%s.%d", strings.ToLower(s.cfg.Prefix), kind, partition)},
		Storage:    jetstream.FileStorage,
		Retention:  jetstream.LimitsPolicy,
		Discard:    jetstream.DiscardNew,
		Replicas:   s.cfg.Replicas,
		Duplicates: duplicates,
	}
}

func (s *JetStream) open(ctx context.Context, cfg jetstream.StreamConfig) (*streamRecords, error) {
	stream, err := s.js.CreateOrUpdateStream(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &streamRecords{js: s.js, stream: stream, subject: cfg.Subjects[0], chain: newChain()}, nil
}

// streamRecords keeps records in a stream. A record's sequence is the
// stream's own.
type streamRecords struct {
	js      jetstream.JetStream
	stream  jetstream.Stream
	subject string
	chain   *chain
}

// Append implements Log. Before it stores, the server compares the header
// Nats-Expected-Last-Sequence with the stream's last sequence, and for one
// that is chained also Nats-Expected-Last-Msg-Id with the last record's id.
func (r *streamRecords) Append(prev uint64, data []byte) <-chan error {
	return r.chain.add(func(id, behind string) (wait func() error) {
		if len(data) > MaxRecordBytes {
			return func() error { return tooLarge(data) }
		}
		options := []jetstream.PublishOpt{
			jetstream.WithMsgID(id),
			jetstream.WithExpectLastSequence(prev),
			jetstream.WithRetryAttempts(0), // a retry could overtake the appends behind it
		}
		if behind != "" {
			options = append(options, jetstream.WithExpectLastMsgID(behind))
		}
		future, err := r.js.PublishAsync(r.subject, data, options...)
		if err != nil {
			return func() error { return appendError(err) }
		}
		return func() error {
			select {
			case <-future.Ok():
				return nil
			case err := <-future.Err():
				return appendError(err)
			case <-r.chain.closing:
				return ErrClosed
			}
		}
	})
}

func tooLarge(data []byte) error {
	return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(data), MaxRecordBytes)
}

// appendError says what a failed publish means for the record. Only what the
// server is known to have refused is not unknown.
func appendError(err error) error {
	api, refused := errors.AsType[*jetstream.APIError](err)
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case !refused:
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	switch code := api.ErrorCode; {
	case code == jetstream.JSErrCodeStreamWrongLastSequence,
		code == jetstream.JSErrCodeStreamWrongLastSequenceConstant,
		code == codeWrongLastID:
		return fmt.Errorf("%w: %w", ErrConflict, err)
	case code == codeAccountResources, code == codeInsufficient, code == codeStorageResources,
		code == codeStoreFailed && strings.Contains(api.Description, storeFailedMaximumBytes):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case code == jetstream.JSErrCodeStreamMessageExceedsMaximum,
		code == codeStoreFailed && strings.Contains(api.Description, storeFailedTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// State implements Log.
func (r *streamRecords) State(ctx context.Context) (State, error) {
	if err := r.chain.check(); err != nil {
		return State{}, err
	}
	info, err := r.stream.Info(ctx)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return State{}, fmt.Errorf("%w: the stream has vanished", ErrDamaged)
	case err != nil:
		return State{}, fmt.Errorf("asking for stream state: %w", err)
	}
	state := State{First: info.State.FirstSeq, Last: info.State.LastSeq, Bytes: info.State.Bytes}
	if info.State.Msgs == 0 {
		state.First = state.Last + 1
	}
	return state, nil
}

// Read implements Log. A few records are asked for by their sequences; a long
// run of them is fetched through a consumer, which sends them as they are, where
// asking costs a round trip and base64 for each (measured: 900 MB/s against 90
// for records of 16 KiB). Neither holds up appends, as direct batches do.
func (r *streamRecords) Read(ctx context.Context, from uint64, most int) ([]Record, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	state, err := r.State(ctx)
	switch {
	case err != nil:
		return nil, err
	case from < state.First:
		return nil, fmt.Errorf("%w: %d, the first is %d", ErrPurged, from, state.First)
	case from > state.Last:
		return nil, nil
	}
	count := min(state.Last-from+1, uint64(min(most, MaxReadRecords))) //nolint:gosec // not negative
	if count <= fewRecords {
		return r.few(ctx, from, count)
	}
	return r.fetch(ctx, from, count)
}

// few asks for one record after the other. It returns those before a gap, or
// the error if there are none.
func (r *streamRecords) few(ctx context.Context, from, count uint64) ([]Record, error) {
	var records []Record
	size := 0
	for seq := from; seq < from+count; seq++ {
		one, err := r.get(ctx, seq)
		if err != nil && len(records) > 0 {
			break
		}
		if err != nil {
			return nil, err
		}
		if size += len(one.Data); size > MaxReadBytes && len(records) > 0 {
			break
		}
		records = append(records, one)
	}
	return records, nil
}

func (r *streamRecords) get(ctx context.Context, seq uint64) (Record, error) {
	msg, err := r.stream.GetMsg(ctx, seq)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return Record{}, r.missing(ctx, seq)
	case err != nil:
		return Record{}, fmt.Errorf("reading record %d: %w", seq, err)
	}
	return Record{Seq: seq, Data: msg.Data}, nil
}

// fetch reads from a consumer of its own. It is in memory and acknowledges
// nothing; if it cannot be deleted it goes by itself.
func (r *streamRecords) fetch(ctx context.Context, from, count uint64) ([]Record, error) {
	consumer, err := r.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: readTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("reading from %d: creating consumer: %w", from, err)
	}
	records, err := r.consume(ctx, consumer, from, count)
	deleteErr := r.stream.DeleteConsumer(ctx, consumer.CachedInfo().Name)
	if len(records) == 0 {
		return nil, errors.Join(err, deleteErr)
	}
	return records, nil
}

// consume takes what the consumer has, from on. It returns the records before
// a gap, or the error if there are none.
func (r *streamRecords) consume(ctx context.Context, consumer jetstream.Consumer, from, count uint64) ([]Record, error) {
	// The consumer may know of fewer, if some are missing or if it lives on
	// a replica that is behind. If it knows of none, the stream's leader is
	// asked: waiting would not tell the one from the other.
	pending := consumer.CachedInfo().NumPending
	if pending == 0 {
		return r.few(ctx, from, 1)
	}
	batch, err := consumer.Fetch(int(min(count, pending)), jetstream.FetchMaxBytes(MaxReadBytes), jetstream.FetchContext(ctx)) //nolint:gosec // few
	if err != nil {
		return nil, fmt.Errorf("reading from %d: %w", from, err)
	}
	var records []Record
	for msg := range batch.Messages() {
		meta, err := msg.Metadata()
		if err != nil {
			return records, fmt.Errorf("reading from %d: %w", from, err)
		}
		if seq := from + uint64(len(records)); meta.Sequence.Stream != seq {
			return records, r.missing(ctx, seq)
		}
		records = append(records, Record{Seq: meta.Sequence.Stream, Data: msg.Data()})
	}
	if err := batch.Error(); err != nil {
		return records, fmt.Errorf("reading from %d: %w", from, err)
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("reading from %d: %w", from, nats.ErrTimeout)
	}
	return records, nil
}

// missing says why a record is not where it should be: it was purged just
// now, or it is lost.
func (r *streamRecords) missing(ctx context.Context, seq uint64) error {
	state, err := r.State(ctx)
	switch {
	case err != nil:
		return err
	case seq < state.First:
		return fmt.Errorf("%w: %d, the first is %d", ErrPurged, seq, state.First)
	}
	return fmt.Errorf("%w: %d is not there, between %d and %d", ErrDamaged, seq, state.First, state.Last)
}

// Purge implements Log. A purge beyond the end would move the end: the server
// takes it as the sequence to go on from.
func (r *streamRecords) Purge(ctx context.Context, upTo uint64) error {
	state, err := r.State(ctx)
	if err != nil {
		return err
	}
	upTo = min(upTo, state.Last)
	if upTo < state.First {
		return nil
	}
	if err := r.stream.Purge(ctx, jetstream.WithPurgeSequence(upTo+1)); err != nil {
		return fmt.Errorf("purging up to %d: %w", upTo, err)
	}
	return nil
}

// Close implements Log.
func (r *streamRecords) Close() error {
	r.chain.close()
	return nil
}
