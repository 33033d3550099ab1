package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/pflag"

	"github.com/fanfare-dev/fanfare/internal/eventlog"
	"github.com/fanfare-dev/fanfare/internal/setting"
)

const (
	natsReplicas    = 3
	mostReplicas    = 5 // what JetStream allows
	natsPing        = 5 * time.Second
	natsMissedPings = 2
	// natsComplaint is how often it is said that NATS cannot be reached.
	natsComplaint = 10 * time.Second
)

// natsConfig says where NATS is. The zero value is none.
type natsConfig struct {
	url      string
	prefix   string
	replicas int
	creds    string
	nkey     string
	user     string
	password string
	token    string
	monitors []string // monitoring addresses of the servers
	tls      engineTLS
}

func (c *natsConfig) register(flags *pflag.FlagSet) {
	flags.StringVar(&c.url, "nats-url", "", "URLs of the NATS cluster's servers, as in tls://nats-1:4222,tls://nats-2:4222")
	flags.StringVar(&c.prefix, "nats-prefix", eventlog.DefaultPrefix, "what the names of this cluster's streams begin with")
	flags.IntVar(&c.replicas, "nats-replicas", natsReplicas, "on how many servers each log is, 1 to 5")
	flags.StringVar(&c.creds, "nats-creds", "", "file with a user's JWT and key, as nsc makes it")
	flags.StringVar(&c.nkey, "nats-nkey", "", "file with the seed of a user's nkey")
	flags.StringVar(&c.user, "nats-user", "", "user name in NATS")
	flags.StringVar(&c.password, "nats-password", "", "password in NATS; better given as FANFARE_NATS_PASSWORD or in the file")
	flags.StringVar(&c.token, "nats-token", "", "token in NATS; better given as FANFARE_NATS_TOKEN or in the file")
	flags.StringSliceVar(&c.monitors, "nats-monitor-urls", nil, "monitoring addresses of the NATS servers, as in http://nats-1:8222: "+
		"asked whether each record is synced, which a client cannot see")
	c.tls.register(flags, "nats")
	setting.Hide(flags, "nats-password", "nats-token")
	setting.HideUser(flags, "nats-url")
}

// validate checks what is given; plain allows plain text to other machines.
func (c *natsConfig) validate(plain bool) error {
	for server := range strings.SplitSeq(c.url, ",") {
		u, err := url.Parse(strings.TrimSpace(server))
		switch {
		case c.url == "":
			continue
		case err != nil, u.Scheme != "nats" && u.Scheme != "tls", u.Hostname() == "":
			return setting.Wrong("nats-url", "has something that is not a server; want tls://host:port")
		case u.Scheme == "nats" && !plain && !isLoopback(u.Hostname()):
			return setting.Wrong("nats-url", "has %s in plain text, and all events pass there; give tls://, or say --insecure-engines", u.Redacted())
		}
	}
	for _, monitor := range c.monitors {
		if u, err := url.Parse(monitor); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			return setting.Wrong("nats-monitor-urls", "has something that is not an address; want http://host:8222")
		}
	}
	if len(c.monitors) > 0 && c.url == "" {
		return setting.Wrong("nats-monitor-urls", "is given without --nats-url; what runs in this process needs no asking")
	}
	ways := 0
	for _, way := range []string{c.creds, c.nkey, c.user, c.token} {
		if way != "" {
			ways++
		}
	}
	switch {
	case ways > 1:
		return setting.Wrong("nats-url", "has more than one way to log in: --nats-creds, --nats-nkey, --nats-user and --nats-token exclude each other")
	case c.user == "" && c.password != "":
		return setting.Wrong("nats-password", "is given without --nats-user")
	}
	return firstOf(within("nats-replicas", c.replicas, 1, mostReplicas), c.tls.validate("nats"))
}

// dial returns a connection, which goes on trying for as long as it takes.
func (c *natsConfig) dial(logger *slog.Logger) (*nats.Conn, error) {
	options := append(eventlog.ConnectOptions(logger),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(), // what is refused today may be allowed tomorrow
		nats.ReconnectErrHandler(complaining(logger)),
		nats.PingInterval(natsPing),
		nats.MaxPingsOutstanding(natsMissedPings),
	)
	login, err := c.login()
	if err != nil {
		return nil, err
	}
	options = append(append(options, login...), c.secure()...)
	conn, err := nats.Connect(c.url, options...)
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	return conn, nil
}

// watch returns what looks how the servers sync.
func (c *natsConfig) watch(logger *slog.Logger) (*eventlog.SyncWatch, error) {
	config, err := c.tls.config()
	if err != nil {
		return nil, err
	}
	return &eventlog.SyncWatch{
		URLs: c.monitors, Client: &http.Client{Transport: &http.Transport{TLSClientConfig: config}}, Logger: logger,
	}, nil
}

// shown is where NATS is, without what is secret.
func (c *natsConfig) shown() string {
	var servers []string
	for server := range strings.SplitSeq(c.url, ",") {
		if u, err := url.Parse(strings.TrimSpace(server)); err == nil {
			servers = append(servers, u.Host)
		}
	}
	return strings.Join(servers, ", ")
}

// login returns how to say who we are. Files are read at every connection, so
// that new ones are used; the first time here, so that a wrong one is noticed.
func (c *natsConfig) login() ([]nats.Option, error) {
	switch {
	case c.creds != "":
		if _, err := os.ReadFile(c.creds); err != nil {
			return nil, setting.Wrong("nats-creds", "cannot be read: %v", err)
		}
		return []nats.Option{nats.UserCredentials(c.creds)}, nil
	case c.nkey != "":
		option, err := nats.NkeyOptionFromSeed(c.nkey)
		if err != nil {
			return nil, setting.Wrong("nats-nkey", "is no seed of a user's nkey: %v", err)
		}
		return []nats.Option{option}, nil
	case c.user != "":
		return []nats.Option{nats.UserInfo(c.user, c.password)}, nil
	case c.token != "":
		return []nats.Option{nats.Token(c.token)}, nil
	}
	return nil, nil
}

// secure returns how to speak TLS. These files, too, are read at every
// connection.
func (c *natsConfig) secure() []nats.Option {
	var options []nats.Option
	if c.tls.ca != "" {
		options = append(options, nats.RootCAs(c.tls.ca))
	}
	if c.tls.cert != "" {
		options = append(options, nats.ClientCert(c.tls.cert, c.tls.key))
	}
	return options
}

// complaining says now and then why NATS cannot be reached: it is tried many
// times a minute.
func complaining(logger *slog.Logger) func(*nats.Conn, error) {
	var mu sync.Mutex
	var last time.Time // guarded by mu
	return func(_ *nats.Conn, err error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(last) < natsComplaint {
			return
		}
		last = time.Now()
		logger.Warn("cannot reach NATS; trying on", "error", err)
	}
}
