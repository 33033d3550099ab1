package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/fanfare-dev/fanfare/internal/reload"
)

// Files are a node's, in PEM.
type Files struct {
	CA   string // the authorities of the cluster; several while one replaces another
	Cert string
	Key  string
}

// Keeper speaks TLS with a node's certificate, and reads the files again when
// they change: connections made after that use the new ones.
type Keeper struct{ material *reload.Value[*material] }

// material is what the files hold.
type material struct {
	identity Identity
	leaf     *x509.Certificate
	server   *tls.Config
	client   *tls.Config
}

// Open reads the files, and returns an error if a node of one of the roles
// cannot use them.
func Open(files Files, logger *slog.Logger, roles ...Role) (*Keeper, error) {
	value, err := reload.New([]string{files.CA, files.Cert, files.Key}, func(texts [][]byte) (*material, error) {
		return parse(files, texts, roles)
	}, logger)
	if err != nil {
		return nil, err
	}
	return &Keeper{value}, nil
}

func parse(files Files, texts [][]byte, roles []Role) (*material, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(texts[0]) {
		return nil, fmt.Errorf("%s has no certificate in it", files.CA)
	}
	pair, err := tls.X509KeyPair(texts[1], texts[2])
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", files.Cert, files.Key, err)
	}
	m := &material{leaf: pair.Leaf}
	if m.identity, err = IdentityOf(m.leaf); err != nil {
		return nil, fmt.Errorf("%s: %w", files.Cert, err)
	}
	known := false
	for _, role := range roles {
		known = known || m.identity.Role == role
	}
	if !known {
		return nil, fmt.Errorf("%s is for a %s, not for a %s", files.Cert, m.identity.Role, roles[0])
	}
	options := x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, Intermediates: x509.NewCertPool()}
	for _, der := range pair.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil {
			options.Intermediates.AddCert(cert)
		}
	}
	if _, err := m.leaf.Verify(options); err != nil {
		return nil, fmt.Errorf("%s is not a certificate of the authority in %s: %w", files.Cert, files.CA, err)
	}
	m.server = &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{pair},
		ClientCAs:    pool,
		// Who shows none can still show a token, or ask for the health.
		ClientAuth: tls.VerifyClientCertIfGiven,
		NextProtos: []string{"h2", "http/1.1"},
	}
	m.client = &tls.Config{
		MinVersion:       tls.VersionTLS12,
		Certificates:     []tls.Certificate{pair},
		RootCAs:          pool,
		VerifyConnection: verifyCoordinator,
	}
	return m, nil
}

// verifyCoordinator refuses to talk to one who is not a coordinator, although
// the cluster's authority has signed who it is.
func verifyCoordinator(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("it shows no certificate")
	}
	id, err := IdentityOf(state.PeerCertificates[0])
	if err != nil {
		return err
	}
	if id.Role != Coordinator {
		return fmt.Errorf("its certificate is for a %s, not for a coordinator", id.Role)
	}
	return nil
}

// Identity is who the node is.
func (k *Keeper) Identity() Identity { return k.material.Get().identity }

// CheckHost returns an error unless the certificate is for a host.
func (k *Keeper) CheckHost(host string) error {
	return k.material.Get().leaf.VerifyHostname(host)
}

// Expires is when the certificate does.
func (k *Keeper) Expires() time.Time { return k.material.Get().leaf.NotAfter }

// Server returns how to serve.
func (k *Keeper) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return k.material.Get().server, nil
		},
	}
}

// insideNetwork is the network of connections that never leave the process:
// those of google.golang.org/grpc/test/bufconn.
const insideNetwork = "bufconn"

// Inside says that a connection comes from this very process.
type Inside struct{ credentials.CommonAuthInfo }

// AuthType implements credentials.AuthInfo.
func (Inside) AuthType() string { return "inside" }

// ServerCredentials returns how to serve gRPC: over TLS, but for connections
// from inside the process, whose AuthInfo is Inside.
func (k *Keeper) ServerCredentials() credentials.TransportCredentials {
	return serverCredentials{credentials.NewTLS(k.Server())}
}

type serverCredentials struct {
	credentials.TransportCredentials
}

// ServerHandshake implements credentials.TransportCredentials.
func (c serverCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if conn.LocalAddr().Network() == insideNetwork {
		return conn, Inside{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
	}
	return c.TransportCredentials.ServerHandshake(conn)
}

// Clone implements credentials.TransportCredentials.
func (c serverCredentials) Clone() credentials.TransportCredentials {
	return serverCredentials{c.TransportCredentials.Clone()}
}

// DialCredentials returns how to dial coordinators.
func (k *Keeper) DialCredentials() credentials.TransportCredentials {
	return dialCredentials{credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}), k}
}

// dialCredentials are new for each connection, so that authorities that were
// added or taken away count.
type dialCredentials struct {
	credentials.TransportCredentials

	keeper *Keeper
}

// ClientHandshake implements credentials.TransportCredentials.
func (c dialCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(c.keeper.material.Get().client).ClientHandshake(ctx, authority, conn)
}

// Clone implements credentials.TransportCredentials.
func (c dialCredentials) Clone() credentials.TransportCredentials {
	return dialCredentials{c.TransportCredentials.Clone(), c.keeper}
}
