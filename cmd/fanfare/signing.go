package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// signingFlags say how requests are signed. All of them together are one field
// of a subscription.
type signingFlags struct {
	scheme string
	hmac   fanfarev1.HmacSigning
}

func (f *signingFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.scheme, "signature", "",
		"how requests are signed: standard, standard-ed25519, github, stripe or hmac (default standard)")
	flags.StringVar(&f.hmac.Header, "hmac-header", "", "with --signature hmac, the header with the signature")
	flags.StringVar(&f.hmac.Algorithm, "hmac-algorithm", "", "sha1, sha256, sha384 or sha512 (default sha256)")
	flags.StringVar(&f.hmac.Encoding, "hmac-encoding", "", "hex or base64 (default hex)")
	flags.StringVar(&f.hmac.Prefix, "hmac-prefix", "", "what comes before the signature, as in sha256=")
	flags.StringVar(&f.hmac.TimestampHeader, "hmac-timestamp-header", "", "a header for the time of the attempt")
	flags.StringVar(&f.hmac.Content, "hmac-content", "",
		"what is signed, with {id}, {timestamp} and {body} in it (default {body})")
	complete(cmd, "signature", "standard", "standard-ed25519", "github", "stripe", "hmac")
	complete(cmd, "hmac-algorithm", "sha1", "sha256", "sha384", "sha512")
	complete(cmd, "hmac-encoding", "hex", "base64")
}

// isSigningFlag reports whether a flag is one of signingFlags.
func isSigningFlag(flag string) bool { return flag == "signature" || strings.HasPrefix(flag, "hmac-") }

// signing returns the field, or nil if none of its flags was given.
func (f *signingFlags) signing() *fanfarev1.Signing {
	h := &f.hmac
	given := h.GetHeader() + h.GetAlgorithm() + h.GetEncoding() + h.GetPrefix() + h.GetTimestampHeader() + h.GetContent()
	switch {
	case given != "":
		return &fanfarev1.Signing{Scheme: f.scheme, Hmac: h}
	case f.scheme != "":
		return &fanfarev1.Signing{Scheme: f.scheme}
	default:
		return nil
	}
}

// signatureText puts how requests are signed in words.
func signatureText(s *fanfarev1.Subscription) string {
	scheme, h := s.GetSigning().GetScheme(), s.GetSigning().GetHmac()
	if h == nil {
		return scheme
	}
	var text strings.Builder
	text.WriteString(scheme + ", in " + h.GetHeader())
	for _, part := range []string{h.GetAlgorithm(), h.GetEncoding(), h.GetPrefix(), h.GetContent()} {
		if part != "" {
			text.WriteString(", " + part)
		}
	}
	return text.String()
}

func rotateSecretCommand(s *settings) *cobra.Command {
	var secret string
	var grace spanFlag
	cmd := &cobra.Command{
		Use:   "rotate-secret ID",
		Short: "Sign with a new secret, and for a while with the old one too",
		Long: `Begin to sign with a new secret, which the answer shows. Until the grace has
passed (24 h, or --grace: 0 s to 7 days) the old secrets sign too, so that the
receiver can be given the new one meanwhile. Then they are dropped.`,
		Example: `  fanfare subscriptions rotate-secret sub_1f4
  fanfare subscriptions rotate-secret sub_1f4 --grace 7d
  fanfare subscriptions rotate-secret sub_1f4 --grace 0s   # the old one was stolen`,
		Args:              oneArg("subscription"),
		ValidArgsFunction: s.completeSubscriptions,
	}
	cmd.Flags().StringVar(&secret, "secret", "", "the new secret (one is made if not given)")
	cmd.Flags().Var(&grace, "grace", "how long the old secrets go on signing (default 24h)")
	cmd.RunE = s.run(func(ctx context.Context, c *client, args []string) error {
		name, err := c.resourceName("subscriptions", args[0])
		if err != nil {
			return err
		}
		rotated, err := c.subscriptions().RotateSubscriptionSecret(ctx, &fanfarev1.RotateSubscriptionSecretRequest{
			Name: name + "/secret", Secret: secret, Grace: grace.value,
		})
		if err != nil {
			return err
		}
		return c.print(rotated, secretTable(rotated))
	})
	return cmd
}

// secretTable lists the secrets in force.
func secretTable(secret *fanfarev1.SubscriptionSecret) table {
	t := table{header: []string{"SECRET", "PUBLIC KEY", "SIGNS UNTIL"}, empty: "No secrets."}
	for _, active := range secret.GetSecrets() {
		until := moment(active.GetExpireTime())
		if active.GetExpireTime() == nil {
			until = "-"
		}
		t.rows = append(t.rows, []string{active.GetSecret(), orDash(active.GetPublicKey()), until})
	}
	return t
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func signingKeysCommand(s *settings) *cobra.Command {
	var pages paging
	var subscription string
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "List the public keys that signatures are verified with",
		Long: `List the public keys of the tenant's subscriptions that sign by ed25519
(--signature standard-ed25519). They are no secrets: receivers verify with them.
At /v1/tenants/TENANT/keys they are a JSON Web Key Set.`,
		Example: `  fanfare subscriptions keys
  fanfare subscriptions keys --subscription sub_1f4 -o json`,
		Args: noArgs,
		RunE: s.run(func(ctx context.Context, c *client, _ []string) error {
			return listing[*fanfarev1.ListSigningKeysResponse]{
				fetch: func(ctx context.Context, size int32, token string) (*fanfarev1.ListSigningKeysResponse, error) {
					return c.subscriptions().ListSigningKeys(ctx, &fanfarev1.ListSigningKeysRequest{
						Parent: c.tenant, Subscription: subscription, PageSize: size, PageToken: token,
					})
				},
				view: signingKeyTable,
			}.print(ctx, c, pages)
		}),
	}
	pages.register(cmd)
	cmd.Flags().StringVar(&subscription, "subscription", "", "only this subscription's")
	s.completeSubscriptionFlag(cmd)
	return cmd
}

func signingKeyTable(page *fanfarev1.ListSigningKeysResponse) table {
	t := table{header: []string{"SUBSCRIPTION", "PUBLIC KEY", "KID", "SIGNS UNTIL"}, empty: "No keys."}
	for _, key := range page.GetKeys() {
		until := "-"
		if key.GetExpireTime() != nil {
			until = moment(key.GetExpireTime())
		}
		t.rows = append(t.rows, []string{lastPart(key.GetSubscription()), key.GetPublicKey(), key.GetKid(), until})
	}
	return t
}

// publicKeysText lists a subscription's public keys.
func publicKeysText(s *fanfarev1.Subscription) string { return strings.Join(s.GetPublicKeys(), ", ") }
