package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/internal/access"
	"github.com/fanfare-dev/fanfare/internal/pki"
)

const certsLong = `Certs makes the certificates with which the members of a cluster, and clients,
prove who they are: for a start, and for those who have no authority of their
own. Keys are ECDSA P-256, in files that only their owner can read. No file is
overwritten.

  fanfare certs ca
  fanfare certs node --role coordinator --id c1 --host c1.example.com
  fanfare certs node --role worker --id workers
  fanfare certs client --id ops --tenant '*' --scopes admin

The authority's key signs everybody's rights: keep ca.key offline, and give
members ca.crt only. To renew a certificate, make a new one in another folder
and move it over the old: processes notice, and need no restart.`

const (
	caName    = "ca"
	certsDir  = "certs"
	day       = 24 * time.Hour
	shownDate = "2006-01-02"
)

// certsCommand makes certificates.
func certsCommand() *cobra.Command {
	return newGroup("certs", "Make certificates for a cluster", certsLong, certsCACommand(), certsNodeCommand(), certsClientCommand())
}

// certsPlace is where certificates are.
type certsPlace struct{ dir, ca string }

func (p *certsPlace) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.dir, "dir", certsDir, "folder to write to; it is made if need be")
	cmd.Flags().StringVar(&p.ca, "ca-dir", "", "folder with ca.crt and ca.key (default --dir)")
}

func certsCACommand() *cobra.Command {
	var dir string
	lifetime := lifetimeFlag{pki.AuthorityLifetime}
	name := "Fanfare"
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Make the authority of a cluster",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pair, err := pki.NewAuthority(name, lifetime.value, time.Now())
			if err != nil {
				return err
			}
			return writePair(cmd.OutOrStdout(), dir, caName, pair, lifetime.value)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", certsDir, "folder to write to; it is made if need be")
	cmd.Flags().StringVar(&name, "name", name, "name in the certificate")
	cmd.Flags().Var(&lifetime, "lifetime", "how long it lasts, as in 3650d")
	return cmd
}

func certsNodeCommand() *cobra.Command {
	place, lifetime := certsPlace{}, lifetimeFlag{pki.NodeLifetime}
	var id, role string
	var hosts []string
	cmd := &cobra.Command{
		Use:   "node --role coordinator|worker|engine --id NAME [--host HOST …]",
		Short: "Make the certificate of a member, or of an etcd or NATS server",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			identity := pki.Identity{Role: pki.Role(role), Name: id}
			switch {
			case identity.Role == pki.Client:
				return usagef("--role is %q; `fanfare certs client` makes those", role)
			case identity.Role != pki.Worker && len(hosts) == 0:
				return usagef("--host is not given; it says at which names and addresses a %s is dialled", role)
			}
			return issue(cmd.OutOrStdout(), place, pki.Request{Identity: identity, Hosts: hosts, Lifetime: lifetime.value, Now: time.Now()})
		},
	}
	place.register(cmd)
	cmd.Flags().StringVar(&role, "role", "", "coordinator, worker, or engine (an etcd or NATS server)")
	cmd.Flags().StringVar(&id, "id", "", "name of the member; workers may share one certificate")
	cmd.Flags().StringSliceVar(&hosts, "host", nil, "name or address at which it is dialled; may be given again")
	cmd.Flags().Var(&lifetime, "lifetime", "how long it lasts, as in 365d")
	return cmd
}

func certsClientCommand() *cobra.Command {
	place, lifetime := certsPlace{}, lifetimeFlag{pki.ClientLifetime}
	var id string
	rights := rightsFlags{}
	cmd := &cobra.Command{
		Use:   "client --id NAME --tenant TENANT --scopes SCOPES",
		Short: "Make the certificate of a client, with what it may do",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := rights.validate(id); err != nil {
				return err
			}
			return issue(cmd.OutOrStdout(), place, pki.Request{
				Identity: pki.Identity{Role: pki.Client, Name: id, Tenant: rights.tenant, Scopes: rights.scopes},
				Lifetime: lifetime.value, Now: time.Now(),
			})
		},
	}
	place.register(cmd)
	cmd.Flags().StringVar(&id, "id", "", "name of the client")
	rights.register(cmd)
	cmd.Flags().Var(&lifetime, "lifetime", "how long it lasts, as in 90d")
	return cmd
}

// rightsFlags say what a client may do.
type rightsFlags struct {
	tenant string
	scopes []string
}

func (f *rightsFlags) register(cmd *cobra.Command) {
	all := make([]string, len(access.Scopes()))
	for i, scope := range access.Scopes() {
		all[i] = string(scope)
	}
	cmd.Flags().StringVar(&f.tenant, "tenant", "", "tenant in which it may act, or * for all")
	cmd.Flags().StringSliceVar(&f.scopes, "scopes", nil, "what it may do there: "+strings.Join(all, ", "))
	complete(cmd, "scopes", all...)
}

// validate names the flag that is wrong.
func (f *rightsFlags) validate(id string) error {
	switch {
	case id == "":
		return usagef("--id is not given")
	case f.tenant == "":
		return usagef("--tenant is not given; * means all")
	case len(f.scopes) == 0:
		return usagef("--scopes is not given")
	}
	if err := f.entry(id).Caller().Validate(); err != nil {
		return usageError{err: err}
	}
	return nil
}

// entry returns the rights as they stand in a file of tokens.
func (f *rightsFlags) entry(id string) access.Entry {
	entry := access.Entry{Name: id, Tenant: f.tenant}
	for _, scope := range f.scopes {
		entry.Scopes = append(entry.Scopes, access.Scope(scope))
	}
	return entry
}

// issue has the authority sign a certificate, and writes it.
func issue(out io.Writer, place certsPlace, request pki.Request) error {
	if err := request.Identity.Validate(); err != nil {
		return usageError{err: err}
	}
	dir := place.ca
	if dir == "" {
		dir = place.dir
	}
	authority, err := readAuthority(dir)
	if err != nil {
		return err
	}
	pair, err := authority.Issue(request)
	if err != nil {
		return err
	}
	return writePair(out, place.dir, request.Identity.Name, pair, request.Lifetime)
}

func readAuthority(dir string) (*pki.Authority, error) {
	var pair pki.Pair
	var err error
	for name, to := range map[string]*[]byte{".crt": &pair.Cert, ".key": &pair.Key} {
		file := filepath.Join(dir, caName+name)
		*to, err = os.ReadFile(file) //nolint:gosec // the operator names the folder
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s does not exist; `fanfare certs ca` makes an authority, and --ca-dir says where it is", file)
		}
		if err != nil {
			return nil, err
		}
	}
	return pki.ParseAuthority(pair)
}

// writePair writes a certificate and its key to new files, the key first: a
// certificate without one would be of no use.
func writePair(out io.Writer, dir, name string, pair pki.Pair, lifetime time.Duration) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the folder for certificates: %w", err)
	}
	base := filepath.Join(dir, name)
	if _, err := os.Stat(base + ".crt"); err == nil {
		return fmt.Errorf("%s.crt exists, and is not overwritten; move it away first", base)
	}
	if err := writeNew(base+".key", pair.Key, privateMode); err != nil {
		return err
	}
	if err := writeNew(base+".crt", pair.Cert, publicMode); err != nil {
		return errors.Join(err, os.Remove(base+".key"))
	}
	fmt.Fprintf(out, "%s.crt and %s.key, until %s\n", base, base, time.Now().Add(lifetime).Format(shownDate))
	return nil
}

// lifetimeFlag is how long a certificate lasts.
type lifetimeFlag struct{ value time.Duration }

// String implements pflag.Value.
func (f *lifetimeFlag) String() string { return fmt.Sprintf("%dd", f.value/day) }

// Type implements pflag.Value.
func (f *lifetimeFlag) Type() string { return "duration" }

// Set implements pflag.Value.
func (f *lifetimeFlag) Set(s string) error {
	d, err := parseSpan(s)
	if err == nil && d <= 0 {
		err = fmt.Errorf("want more than nothing, got %q", s)
	}
	f.value = d
	return err
}
