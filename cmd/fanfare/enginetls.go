package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"github.com/fanfare-dev/fanfare/internal/setting"
)

// engineTLS are the files with which etcd or NATS is spoken to. The zero value
// trusts the system's authorities and shows no certificate.
type engineTLS struct{ ca, cert, key string }

func (c *engineTLS) register(flags *pflag.FlagSet, engine string) {
	flags.StringVar(&c.ca, engine+"-tls-ca", "", "file with the authorities that vouch for "+engine+" (default the system's)")
	flags.StringVar(&c.cert, engine+"-tls-cert", "", "file with the certificate to show to "+engine)
	flags.StringVar(&c.key, engine+"-tls-key", "", "file with the certificate's key")
}

func (c *engineTLS) validate(engine string) error {
	if (c.cert == "") != (c.key == "") {
		return setting.Wrong(engine+"-tls-cert", "and --%s-tls-key belong together; one of them is missing", engine)
	}
	if c.ca != "" {
		if _, err := readPool(c.ca); err != nil {
			return setting.Wrong(engine+"-tls-ca", "%v", err)
		}
	}
	if c.cert != "" {
		if _, err := tls.LoadX509KeyPair(c.cert, c.key); err != nil {
			return setting.Wrong(engine+"-tls-cert", "cannot be used: %v", err)
		}
	}
	return nil
}

// config returns the files as a TLS config. The certificate is read at every
// connection, so that a new one is used.
func (c *engineTLS) config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.ca != "" {
		pool, err := readPool(c.ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = pool
	}
	if c.cert != "" {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.cert, c.key)
			return &pair, err
		}
	}
	return config, nil
}

func readPool(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("has no certificate in %s", file)
	}
	return pool, nil
}
