package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/pflag"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/fanfare-dev/fanfare/internal/setting"
)

const (
	etcdDialTimeout = 5 * time.Second
	// etcdPing and etcdPingTimeout find an etcd member that has gone without a
	// word; the client then turns to another one.
	etcdPing        = 5 * time.Second
	etcdPingTimeout = 3 * time.Second
	etcdPrefix      = "/fanfare/"
)

// etcdConfig says where etcd is. The zero value is none.
type etcdConfig struct {
	endpoints []string
	prefix    string
	user      string
	password  string
	tls       engineTLS
}

func (c *etcdConfig) register(flags *pflag.FlagSet) {
	flags.StringSliceVar(&c.endpoints, "etcd-endpoints", nil, "URLs of the etcd cluster's members, as in https://etcd-1:2379,https://etcd-2:2379")
	flags.StringVar(&c.prefix, "etcd-prefix", etcdPrefix, "what the keys of this cluster begin with; begins and ends with a slash")
	flags.StringVar(&c.user, "etcd-user", "", "user name in etcd")
	flags.StringVar(&c.password, "etcd-password", "", "password in etcd; better given as FANFARE_ETCD_PASSWORD or in the file")
	c.tls.register(flags, "etcd")
	setting.Hide(flags, "etcd-password")
	setting.HideUser(flags, "etcd-endpoints")
}

// validate checks what is given; plain allows plain text to other machines.
func (c *etcdConfig) validate(plain bool) error {
	for _, endpoint := range c.endpoints {
		u, err := url.Parse(endpoint)
		switch {
		case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Port() == "", u.User != nil, u.Path != "" && u.Path != "/":
			return setting.Wrong("etcd-endpoints", "has something that is not an endpoint; want https://host:port")
		case u.Scheme == "http" && !plain && !isLoopback(u.Hostname()):
			return setting.Wrong("etcd-endpoints", "has %s in plain text, and whoever reads or changes what is said there "+
				"owns the cluster; give https, or say --insecure-engines", endpoint)
		case u.Scheme != strings.SplitN(c.endpoints[0], ":", 2)[0]:
			return setting.Wrong("etcd-endpoints", "mixes http and https")
		}
	}
	switch {
	case !strings.HasPrefix(c.prefix, "/") || !strings.HasSuffix(c.prefix, "/"):
		return setting.Wrong("etcd-prefix", "is %q; it begins and ends with a slash, as in %s", c.prefix, etcdPrefix)
	case c.user == "" && c.password != "":
		return setting.Wrong("etcd-password", "is given without --etcd-user")
	case c.user != "" && c.password == "":
		return setting.Wrong("etcd-user", "is given without --etcd-password")
	}
	return c.tls.validate("etcd")
}

// dial returns a client, which connects when it is used.
func (c *etcdConfig) dial() (*clientv3.Client, error) {
	config := clientv3.Config{
		Endpoints:            c.endpoints,
		DialTimeout:          etcdDialTimeout,
		DialKeepAliveTime:    etcdPing,
		DialKeepAliveTimeout: etcdPingTimeout,
		PermitWithoutStream:  true,
		Username:             c.user,
		Password:             c.password,
		Logger:               zap.NewNop(), // what fails is said where it is asked
	}
	if strings.HasPrefix(c.endpoints[0], "https:") {
		tls, err := c.tls.config()
		if err != nil {
			return nil, fmt.Errorf("reading the certificates for etcd: %w", err)
		}
		config.TLS = tls
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("connecting to etcd: %w", err)
	}
	return client, nil
}

// isLoopback reports whether a host is certainly this machine.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
