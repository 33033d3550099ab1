// Package access decides who may call what.
//
// A caller is a member of the cluster or a client. Members show a certificate;
// clients show one, or a token. What a client may do is a set of scopes, in one
// tenant or in all. One table says which scope each method needs (table.go);
// a method that is not in it is refused to everybody.
package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fanfare-dev/fanfare/internal/pki"
)

// Scope is a kind of thing that a client may do.
type Scope string

// The scopes. None includes another, but for Admin.
const (
	// Publish events.
	Publish Scope = "publish"
	// Read everything but secrets.
	Read Scope = "read"
	// Write subscriptions, read their secrets, retry and replay.
	Write Scope = "write"
	// Metrics of the processes, and nothing else.
	Metrics Scope = "metrics"
	// Admin is everything, tenants and members too.
	Admin Scope = "admin"
)

// Scopes lists the scopes there are.
func Scopes() []Scope { return []Scope{Publish, Read, Write, Metrics, Admin} }

// Everywhere stands for all tenants.
const Everywhere = "*"

// Caller is who calls, and what they may do.
type Caller struct {
	Name   string   `json:"name"`
	Role   pki.Role `json:"role"`
	Tenant string   `json:"tenant,omitempty"` // of a client
	Scopes []Scope  `json:"scopes,omitempty"` // of a client
}

// Validate reports what is wrong with what a client may do, naming the field.
func (c Caller) Validate() error {
	switch {
	case c.Name == "":
		return errors.New("name is empty")
	case c.Tenant == "" || strings.Contains(c.Tenant, "/"):
		return fmt.Errorf("tenant of %s is %q; want a tenant's id, or * for all", c.Name, c.Tenant)
	case len(c.Scopes) == 0:
		return fmt.Errorf("scopes of %s are empty", c.Name)
	}
	for _, scope := range c.Scopes {
		if !slices.Contains(Scopes(), scope) {
			return fmt.Errorf("scopes of %s have %q; there are %s", c.Name, scope, joined(Scopes()))
		}
	}
	return nil
}

// callerOf returns the caller whose certificate says who it is.
func callerOf(id pki.Identity) Caller {
	c := Caller{Name: id.Name, Role: id.Role, Tenant: id.Tenant}
	for _, scope := range id.Scopes {
		c.Scopes = append(c.Scopes, Scope(scope))
	}
	return c
}

// may returns nil if the caller may do what a rule is about, to a tenant; else
// a status that says what is missing.
func (c Caller) may(r rule, tenant string) error {
	switch {
	case c.Role == pki.Coordinator:
		return nil // it asks on behalf of others, whom it has asked who they are
	case r.who == members && c.Role == pki.Worker, r.who == anyone:
		return nil
	case r.who == members:
		return denied("%s is no member of the cluster: workers attach with a certificate of their own", c.Name)
	case c.Role != pki.Client:
		return denied("%s is a %s, and calls nothing but what members call", c.Name, c.Role)
	case !slices.Contains(c.Scopes, r.scope) && !slices.Contains(c.Scopes, Admin):
		return denied("%s needs the scope %q for this; it has %s", c.Name, r.scope, joined(c.Scopes))
	case c.Tenant == Everywhere:
		return nil
	case r.who == everywhere:
		return denied("this concerns the whole cluster, and %s may act in the tenant %q only", c.Name, c.Tenant)
	case c.Tenant != tenant:
		return denied("%s may act in the tenant %q, not in %q", c.Name, c.Tenant, tenant)
	}
	return nil
}

func denied(format string, args ...any) error {
	return status.Errorf(codes.PermissionDenied, format, args...)
}

func joined(scopes []Scope) string {
	all := make([]string, len(scopes))
	for i, scope := range scopes {
		all[i] = string(scope)
	}
	return strings.Join(all, ", ")
}
