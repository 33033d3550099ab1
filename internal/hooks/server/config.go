package server

import (
	"cmp"
	"net/netip"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/fanfare-dev/fanfare/internal/hooks/journal"
	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
)

// Defaults of Config.
const (
	DefaultPrefix          = "hooks"
	DefaultMultipartMemory = 1 << 20
	DefaultMaxBody         = 32 << 20
	DefaultMaxBodies       = 256 << 20
	DefaultMaxOutput       = 8 << 20
	DefaultMaxCommands     = 128
	DefaultMaxWaiting      = 1024
	DefaultReadTimeout     = 60 * time.Second
	DefaultWriteTimeout    = 60 * time.Second
)

// Config says how hooks are served. Of the sizes, counts and durations, 0 is
// the default.
type Config struct {
	Library *Library
	Journal *journal.Journal
	// Meter measures; nil is for nobody.
	Meter metric.Meter

	// Prefix is the part of the path before the id. It is a pattern: {name}
	// is any one segment's part. Empty is no prefix.
	Prefix string
	// Headers are set on answers of hooks and of /.
	Headers []spec.Header
	// Methods are those of hooks without http-methods; none is all.
	Methods []string
	// UseRequestID takes the id from X-Request-Id, of which RequestIDLimit
	// bytes count; 0 is all.
	UseRequestID   bool
	RequestIDLimit int
	// Debug logs requests and answers whole.
	Debug bool
	// MultipartMemory is what the files of a form may take before they go to
	// disk.
	MultipartMemory int64

	MaxBody      int64         // of one request
	MaxBodies    int64         // of all requests together, parsed or not
	MaxOutput    int           // of a command, where it is the answer
	MaxCommands  int           // that run at a time
	MaxWaiting   int           // that wait
	ReadTimeout  time.Duration // of a body
	WriteTimeout time.Duration // of an answer, or of each part of a streamed one
	// CommandTimeout ends commands of hooks without command-timeout; 0 is
	// never.
	CommandTimeout time.Duration
	// TrustedProxies are believed when they say who the client is.
	TrustedProxies []netip.Prefix
}

func (c Config) withDefaults() Config {
	c.MultipartMemory = cmp.Or(c.MultipartMemory, DefaultMultipartMemory)
	c.MaxBody = cmp.Or(c.MaxBody, DefaultMaxBody)
	c.MaxBodies = cmp.Or(c.MaxBodies, DefaultMaxBodies)
	c.MaxOutput = cmp.Or(c.MaxOutput, DefaultMaxOutput)
	c.MaxCommands = cmp.Or(c.MaxCommands, DefaultMaxCommands)
	c.MaxWaiting = cmp.Or(c.MaxWaiting, DefaultMaxWaiting)
	c.ReadTimeout = cmp.Or(c.ReadTimeout, DefaultReadTimeout)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, DefaultWriteTimeout)
	return c
}
