package pki_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fanfare-dev/fanfare/internal/pki"
)

func newAuthority(t *testing.T) (pki.Pair, *pki.Authority) {
	t.Helper()
	pair, err := pki.NewAuthority("test", pki.AuthorityLifetime, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.ParseAuthority(pair)
	if err != nil {
		t.Fatal(err)
	}
	return pair, authority
}

func issue(t *testing.T, authority *pki.Authority, id pki.Identity, hosts ...string) pki.Pair {
	t.Helper()
	pair, err := authority.Issue(pki.Request{Identity: id, Hosts: hosts, Lifetime: pki.NodeLifetime, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func certificate(t *testing.T, pair pki.Pair) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(pair.Cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// A certificate says who it is for, in words that come back as they went in.
func TestIdentities(t *testing.T) {
	_, authority := newAuthority(t)
	for _, id := range []pki.Identity{
		{Role: pki.Coordinator, Name: "c1"},
		{Role: pki.Worker, Name: "w 1%2f?x=y#z"},
		{Role: pki.Client, Name: "shop", Tenant: "acme", Scopes: []string{"publish", "read"}},
		{Role: pki.Client, Name: "ops", Tenant: "*", Scopes: []string{"admin"}},
	} {
		got, err := pki.IdentityOf(certificate(t, issue(t, authority, id, "127.0.0.1")))
		if err != nil {
			t.Errorf("%+v: %v", id, err)
		}
		if diff := cmp.Diff(id, got); diff != "" {
			t.Errorf("identity (-issued +read):\n%s", diff)
		}
	}
	for _, id := range []pki.Identity{
		{},
		{Role: pki.Worker},
		{Role: pki.Worker, Name: "a/b"},
		{Role: "root", Name: "a"},
		{Role: pki.Worker, Name: "a", Tenant: "*"},
		{Role: pki.Client, Name: "a", Tenant: "acme"},
		{Role: pki.Client, Name: "a", Scopes: []string{"read"}},
	} {
		if _, err := authority.Issue(pki.Request{Identity: id, Lifetime: time.Hour, Now: time.Now()}); err == nil {
			t.Errorf("%+v got a certificate", id)
		}
	}
}

// Clients and workers cannot serve with their certificates, nobody can sign
// with theirs, and none outlasts the authority.
func TestWhatCertificatesAreFor(t *testing.T) {
	pair, authority := newAuthority(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pair.Cert)
	serves := func(pair pki.Pair) error {
		_, err := certificate(t, pair).Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		return err
	}
	if err := serves(issue(t, authority, pki.Identity{Role: pki.Coordinator, Name: "c"}, "localhost")); err != nil {
		t.Errorf("a coordinator cannot serve: %v", err)
	}
	client := issue(t, authority, pki.Identity{Role: pki.Client, Name: "c", Tenant: "*", Scopes: []string{"admin"}}, "localhost")
	if serves(client) == nil {
		t.Error("a client can serve")
	}
	if serves(issue(t, authority, pki.Identity{Role: pki.Worker, Name: "w"})) == nil {
		t.Error("a worker can serve")
	}
	if _, err := pki.ParseAuthority(client); err == nil {
		t.Error("a client can sign")
	}
	long, err := authority.Issue(pki.Request{
		Identity: pki.Identity{Role: pki.Worker, Name: "w"}, Lifetime: 2 * pki.AuthorityLifetime, Now: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if end := certificate(t, long).NotAfter; end.After(certificate(t, pair).NotAfter) {
		t.Errorf("it ends %v, after the authority", end)
	}
}

// node is a folder with a member's files.
type node string

func (n node) files() pki.Files {
	return pki.Files{CA: filepath.Join(string(n), "ca.crt"), Cert: filepath.Join(string(n), "tls.crt"), Key: filepath.Join(string(n), "tls.key")}
}

func (n node) write(t *testing.T, ca []byte, pair pki.Pair) {
	t.Helper()
	for name, text := range map[string][]byte{"ca.crt": ca, "tls.crt": pair.Cert, "tls.key": pair.Key} {
		if err := os.WriteFile(filepath.Join(string(n), name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

var quiet = slog.New(slog.DiscardHandler)

func TestOpenRefusesWhatCannotBeUsed(t *testing.T) {
	ca, authority := newAuthority(t)
	otherCA, _ := newAuthority(t)
	worker := issue(t, authority, pki.Identity{Role: pki.Worker, Name: "w"})
	coordinator := issue(t, authority, pki.Identity{Role: pki.Coordinator, Name: "c"}, "localhost")
	for _, tt := range []struct {
		name string
		ca   []byte
		pair pki.Pair
		says string
	}{
		{"another role", ca.Cert, worker, "is for a worker, not for a coordinator"},
		{"another authority", otherCA.Cert, coordinator, "is not a certificate of the authority"},
		{"another's key", ca.Cert, pki.Pair{Cert: coordinator.Cert, Key: worker.Key}, "private key does not match"},
		{"no authority", []byte("none"), coordinator, "has no certificate in it"},
		{"the authority's own", ca.Cert, ca, "no fanfare:// URI"},
	} {
		n := node(t.TempDir())
		n.write(t, tt.ca, tt.pair)
		if _, err := pki.Open(n.files(), quiet, pki.Coordinator); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.says)
		}
	}
}

// shake has a client and a server shake hands, and returns what the client
// thinks of it.
func shake(t *testing.T, client, server *pki.Keeper) (shown *x509.Certificate, err error) {
	t.Helper()
	here, there := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, _, err := server.ServerCredentials().ServerHandshake(there); err == nil {
			_ = conn.Close()
		}
		_ = there.Close()
	}()
	conn, info, err := client.DialCredentials().ClientHandshake(context.WithoutCancel(t.Context()), "localhost:1", here)
	if err == nil {
		if state, ok := info.(interface{ GetCommonAuthInfo() any }); ok {
			t.Log(state)
		}
		shown = conn.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState().PeerCertificates[0]
		_ = conn.Close()
	}
	_ = here.Close()
	<-done
	return shown, err
}

// Certificates are replaced in every way files are, and a replacement in the
// middle of which somebody looks does no harm.
func TestCertificatesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, authority := newAuthority(t)
		coordinator := pki.Identity{Role: pki.Coordinator, Name: "c"}
		root := t.TempDir()
		versions := []string{filepath.Join(root, "1"), filepath.Join(root, "2")}
		for _, version := range versions {
			if err := os.Mkdir(version, 0o700); err != nil {
				t.Fatal(err)
			}
			node(version).write(t, ca.Cert, issue(t, authority, coordinator, "localhost"))
		}
		current := filepath.Join(root, "current")
		if err := os.Symlink(versions[0], current); err != nil {
			t.Fatal(err)
		}
		server, err := pki.Open(node(current).files(), quiet, pki.Coordinator)
		if err != nil {
			t.Fatal(err)
		}
		workerFiles := node(t.TempDir())
		workerFiles.write(t, ca.Cert, issue(t, authority, pki.Identity{Role: pki.Worker, Name: "w"}))
		client, err := pki.Open(workerFiles.files(), quiet, pki.Worker)
		if err != nil {
			t.Fatal(err)
		}
		expect := func(what string) *x509.Certificate {
			t.Helper()
			<-time.After(2 * time.Second)
			shown, err := shake(t, client, server)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			return shown
		}
		first := expect("at first")

		// A symbolic link that is swapped.
		if err := os.Symlink(versions[1], current+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(current+".new", current); err != nil {
			t.Fatal(err)
		}
		second := expect("the link was swapped")
		if second.Equal(first) {
			t.Error("the link was swapped, and the old certificate is still shown")
		}

		// One file of two: what was before counts until the other follows.
		next := issue(t, authority, coordinator, "localhost")
		if err := os.WriteFile(filepath.Join(versions[1], "tls.crt"), next.Cert, 0o600); err != nil {
			t.Fatal(err)
		}
		if !expect("half is written").Equal(second) {
			t.Error("half of a pair is shown")
		}
		if err := os.WriteFile(filepath.Join(versions[1], "tls.key"), next.Key, 0o600); err != nil {
			t.Fatal(err)
		}
		if expect("all is written").Equal(second) {
			t.Error("all was written, and the old certificate is still shown")
		}

		// Another authority: the client must be told of it, too.
		newCA, newAuthority := newAuthority(t)
		node(versions[1]).write(t, newCA.Cert, issue(t, newAuthority, coordinator, "localhost"))
		<-time.After(2 * time.Second)
		if _, err := shake(t, client, server); err == nil {
			t.Error("a server of an unknown authority is trusted")
		}
		workerFiles.write(t, append(ca.Cert, newCA.Cert...), issue(t, newAuthority, pki.Identity{Role: pki.Worker, Name: "w"}))
		expect("the authority was replaced")
	})
}

// Who serves with a certificate that is not a coordinator's is not talked to.
func TestOnlyCoordinatorsAreDialled(t *testing.T) {
	ca, authority := newAuthority(t)
	open := func(id pki.Identity, hosts ...string) *pki.Keeper {
		n := node(t.TempDir())
		n.write(t, ca.Cert, issue(t, authority, id, hosts...))
		keeper, err := pki.Open(n.files(), quiet, id.Role)
		if err != nil {
			t.Fatal(err)
		}
		return keeper
	}
	client := open(pki.Identity{Role: pki.Worker, Name: "w"})
	if _, err := shake(t, client, open(pki.Identity{Role: pki.Coordinator, Name: "c"}, "localhost")); err != nil {
		t.Errorf("a coordinator: %v", err)
	}
	if _, err := shake(t, client, open(pki.Identity{Role: pki.Worker, Name: "w2"}, "localhost")); err == nil ||
		!strings.Contains(err.Error(), "not for a coordinator") {
		t.Errorf("a worker that serves: %v", err)
	}
	if _, err := shake(t, client, open(pki.Identity{Role: pki.Coordinator, Name: "c"}, "elsewhere")); err == nil {
		t.Error("a coordinator of another host is talked to")
	}
}

// FuzzIdentity: no URI makes the reader panic, and what it accepts is valid.
func FuzzIdentity(f *testing.F) {
	f.Add("fanfare://client/shop?scopes=publish,read&tenant=acme")
	f.Add("fanfare://worker/w1")
	f.Add("fanfare:worker")
	f.Fuzz(func(t *testing.T, text string) {
		uri, err := url.Parse(text)
		if err != nil {
			return
		}
		id, err := pki.IdentityOf(&x509.Certificate{URIs: []*url.URL{uri}})
		if err == nil && id.Validate() != nil {
			t.Errorf("%q is accepted as %+v", text, id)
		}
	})
}
