// Package pki makes the certificates of a cluster, and speaks TLS with them.
//
// A cluster has one authority. What it signs says in a URI who it is for:
//
//	fanfare://coordinator/eu-1                         a coordinator
//	fanfare://worker/w-7                               a worker
//	fanfare://client/shop?scopes=publish&tenant=acme   a client, and what it may do
//	fanfare://engine/etcd-1                            an etcd or NATS server
//
// Any authority that can put a URI into a certificate (cert-manager, Vault,
// step-ca) can take the place of `fanfare certs`.
package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

const uriScheme = "fanfare"

// Role is what the holder of a certificate is.
type Role string

// The roles.
const (
	Coordinator Role = "coordinator"
	Worker      Role = "worker"
	Client      Role = "client"
	Engine      Role = "engine"
)

// Identity is who a certificate is for.
type Identity struct {
	Role   Role
	Name   string
	Tenant string   // of a client: where it may act; * is everywhere
	Scopes []string // of a client: what it may do there
}

// ErrNoIdentity says that a certificate, though the cluster's authority has
// signed it, does not say who it is for.
var ErrNoIdentity = errors.New("the certificate has no fanfare:// URI that says who it is for")

// IdentityOf reads who a certificate is for. That the authority has signed it
// was checked before.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	for _, uri := range cert.URIs {
		if uri.Scheme == uriScheme {
			return parseIdentity(uri)
		}
	}
	return Identity{}, ErrNoIdentity
}

func parseIdentity(uri *url.URL) (Identity, error) {
	query := uri.Query()
	id := Identity{Role: Role(uri.Host), Name: strings.TrimPrefix(uri.Path, "/"), Tenant: query.Get("tenant")}
	if scopes := query.Get("scopes"); scopes != "" {
		id.Scopes = strings.Split(scopes, ",")
	}
	return id, id.Validate()
}

// Validate reports what is wrong with an identity.
func (i Identity) Validate() error {
	switch i.Role {
	case Coordinator, Worker, Engine:
		if i.Tenant != "" || len(i.Scopes) > 0 {
			return fmt.Errorf("tenant and scopes are a client's; this is a %s", i.Role)
		}
	case Client:
		if i.Tenant == "" || len(i.Scopes) == 0 {
			return errors.New("a client's certificate names a tenant, or *, and scopes")
		}
	default:
		return fmt.Errorf("role %q is none of coordinator, worker, client and engine", i.Role)
	}
	if i.Name == "" || strings.Contains(i.Name, "/") {
		return fmt.Errorf("name %q is empty or has a slash in it", i.Name)
	}
	return nil
}

// uri returns the URI that says who this is.
func (i Identity) uri() *url.URL {
	uri := &url.URL{Scheme: uriScheme, Host: string(i.Role), Path: "/" + i.Name}
	if i.Role == Client {
		uri.RawQuery = url.Values{"tenant": {i.Tenant}, "scopes": {strings.Join(i.Scopes, ",")}}.Encode()
	}
	return uri
}
