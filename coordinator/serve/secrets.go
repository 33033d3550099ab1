package serve

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/fanfare-dev/fanfare/coordinator/ledger"
	"github.com/fanfare-dev/fanfare/internal/signing"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/signature"
)

// Limits of secrets. They are part of the API: see subscription_service.proto.
const (
	maxSecrets   = 5 // of a subscription, in force at a time
	defaultGrace = 24 * time.Hour
	maxGrace     = 7 * 24 * time.Hour
)

// keptSecret is a signing secret as it is stored.
type keptSecret struct {
	sealed []byte
	public string // whpk_…; empty if it is no private key
	ends   int64  // unix ms; 0: it does not
}

// secretsInForce returns the secrets that sign at a time, newest first.
func secretsInForce(stored *linkv1.StoredSubscription, now time.Time) []keptSecret {
	var list []keptSecret
	for i, sealed := range stored.GetSealedSecrets() {
		kept := keptSecret{sealed: sealed}
		if all := stored.GetSecretExpireTimesUnixMs(); i < len(all) {
			kept.ends = all[i]
		}
		if all := stored.GetSecretPublicKeys(); i < len(all) {
			kept.public = all[i]
		}
		if kept.ends == 0 || kept.ends > now.UnixMilli() {
			list = append(list, kept)
		}
	}
	return list
}

// keepSecrets stores these secrets and no others.
func (s *Server) keepSecrets(stored *linkv1.StoredSubscription, list []keptSecret) {
	stored.SealedSecrets, stored.SecretExpireTimesUnixMs, stored.SecretPublicKeys = nil, nil, nil
	for _, kept := range list {
		stored.SealedSecrets = append(stored.SealedSecrets, kept.sealed)
		stored.SecretExpireTimesUnixMs = append(stored.SecretExpireTimesUnixMs, kept.ends)
		stored.SecretPublicKeys = append(stored.SecretPublicKeys, kept.public)
	}
}

// checkSigning says what is wrong with how a subscription is to be signed.
func checkSigning(s *fanfarev1.Signing) error {
	_, err := signing.Scheme(s)
	if wrong, ok := errors.AsType[*signing.FieldError](err); ok {
		return invalid("signing."+wrong.Field, "%s", wrong.Err.Error())
	}
	return err
}

// secretOf returns the secret a client gave, or a new one, for a subscription
// that is checked. With Standard Webhooks the secret's kind makes the scheme.
func secretOf(given, sub *fanfarev1.Subscription) (signature.Secret, error) {
	if given.Secret == nil {
		secret, err := signing.NewSecret(sub.GetSigning(), rand.Reader)
		if err != nil {
			return signature.Secret{}, fmt.Errorf("making a secret: %w", err)
		}
		return secret, nil
	}
	secret, err := signing.ParseSecret(sub.GetSigning(), given.GetSecret())
	if err != nil {
		return signature.Secret{}, invalid("secret", "is no secret: %s", err.Error())
	}
	if signing.Name(sub.GetSigning()) == signing.StandardEd25519 && !secret.IsPrivateKey() {
		return signature.Secret{}, invalid("secret", "is no private key (whsk_…), which signing.scheme %q takes", signing.StandardEd25519)
	}
	followSecret(sub, secret)
	return secret, nil
}

// followSecret makes the scheme that of the newest secret, where both are
// those of Standard Webhooks.
func followSecret(sub *fanfarev1.Subscription, secret signature.Secret) {
	switch {
	case !signing.IsStandard(sub.GetSigning()):
	case secret.IsPrivateKey():
		sub.Signing = &fanfarev1.Signing{Scheme: signing.StandardEd25519}
	case signing.Name(sub.GetSigning()) == signing.StandardEd25519:
		sub.Signing = &fanfarev1.Signing{Scheme: signing.Standard}
	}
}

// updateSecrets replaces the secrets of a subscription that was changed: by
// the one given, or, if the scheme cannot use those there are, by a new one.
func (s *Server) updateSecrets(stored *linkv1.StoredSubscription, given *fanfarev1.Subscription, secretGiven bool) error {
	if !secretGiven {
		fits, err := s.fits(stored)
		if fits || err != nil {
			return err
		}
		given = new(fanfarev1.Subscription)
	}
	secret, err := secretOf(given, stored.GetSubscription())
	if err != nil {
		return err
	}
	s.keepSecrets(stored, []keptSecret{{sealed: s.Secrets.Seal(secret.Reveal()), public: secret.PublicKey().String()}})
	return nil
}

// fits reports whether a subscription's scheme can use its secrets.
func (s *Server) fits(stored *linkv1.StoredSubscription) (bool, error) {
	how := stored.GetSubscription().GetSigning()
	for i, kept := range secretsInForce(stored, time.Now()) {
		text, err := s.Secrets.Open(kept.sealed)
		if err != nil {
			return false, err
		}
		secret, err := signing.ParseSecret(how, text)
		if err != nil {
			return false, nil //nolint:nilerr // it is of another kind, which is the answer
		}
		if i == 0 && signing.IsStandard(how) && secret.IsPrivateKey() != (signing.Name(how) == signing.StandardEd25519) {
			return false, nil
		}
	}
	return true, nil
}

// GetSubscriptionSecret implements SubscriptionService.
func (s *Server) GetSubscriptionSecret(ctx context.Context, request *fanfarev1.GetSubscriptionSecretRequest) (*fanfarev1.SubscriptionSecret, error) {
	tenant, id, err := parseSecretName(request.GetName())
	if err != nil {
		return nil, err
	}
	var stored *linkv1.StoredSubscription
	err = s.read(ctx, tenant, func(l *ledger.Ledger) {
		if sub := l.SubscriptionByID(tenant, id); sub != nil {
			stored = sub.Stored
		}
	})
	if err != nil {
		return nil, err
	}
	if stored == nil {
		return nil, notFound("subscription", subscriptionName(tenant, id))
	}
	return s.showSecrets(stored)
}

// parseSecretName reads tenants/*/subscriptions/*/secret.
func parseSecretName(name string) (ledger.TenantID, string, error) {
	subscription, ok := strings.CutSuffix(name, "/secret")
	if !ok {
		return "", "", invalid("name", "is %q; expected tenants/*/subscriptions/*/secret", name)
	}
	return parseChild("name", subscription, "subscriptions")
}

// showSecrets opens the secrets that are in force.
func (s *Server) showSecrets(stored *linkv1.StoredSubscription) (*fanfarev1.SubscriptionSecret, error) {
	shown := &fanfarev1.SubscriptionSecret{
		Name: subscriptionName(ledger.TenantID(stored.GetTenant()), stored.GetId()) + "/secret",
	}
	for _, kept := range secretsInForce(stored, time.Now()) {
		text, err := s.Secrets.Open(kept.sealed)
		if err != nil {
			return nil, err
		}
		shown.Secrets = append(shown.Secrets, &fanfarev1.ActiveSecret{
			Secret: text, PublicKey: kept.public, ExpireTime: endOf(kept),
		})
	}
	if len(shown.GetSecrets()) > 0 {
		shown.Secret = shown.GetSecrets()[0].GetSecret()
	}
	return shown, nil
}

func endOf(kept keptSecret) *timestamppb.Timestamp {
	if kept.ends == 0 {
		return nil
	}
	return timestamppb.New(time.UnixMilli(kept.ends))
}

// RotateSubscriptionSecret implements SubscriptionService.
func (s *Server) RotateSubscriptionSecret(ctx context.Context, request *fanfarev1.RotateSubscriptionSecretRequest) (*fanfarev1.SubscriptionSecret, error) {
	tenant, id, err := parseSecretName(request.GetName())
	if err != nil {
		return nil, err
	}
	grace := defaultGrace
	if request.GetGrace() != nil {
		if err := checkDuration("grace", request.GetGrace(), 0, maxGrace); err != nil {
			return nil, err
		}
		grace = request.GetGrace().AsDuration()
	}
	leader, err := s.leader(ctx, tenant)
	if err != nil {
		return nil, err
	}
	if err := leader.Accepts(ctx); err != nil {
		return nil, err
	}
	var rotated *linkv1.StoredSubscription
	err = s.changeOne(ctx, leader, tenant, id, func(sub *ledger.Subscription, record *linkv1.Record) error {
		rotated = proto.CloneOf(sub.Stored)
		if err := s.rotate(rotated, request.GetSecret(), grace, time.Now()); err != nil {
			return err
		}
		record.Subscriptions = append(record.Subscriptions, &linkv1.SubscriptionChange{Number: uint64(sub.Number), Put: rotated})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.showSecrets(rotated)
}

// rotate puts a secret before those in force, which end when the grace has
// passed, or sooner if they were to.
func (s *Server) rotate(stored *linkv1.StoredSubscription, text string, grace time.Duration, now time.Time) error {
	sub := stored.GetSubscription()
	var secret signature.Secret
	var err error
	if text == "" {
		secret, err = signing.NewSecret(sub.GetSigning(), rand.Reader)
	} else if secret, err = signing.ParseSecret(sub.GetSigning(), text); err != nil {
		return invalid("secret", "is no secret: %s", err.Error())
	}
	if err != nil {
		return fmt.Errorf("making a secret: %w", err)
	}
	list := []keptSecret{{sealed: s.Secrets.Seal(secret.Reveal()), public: secret.PublicKey().String()}}
	for _, kept := range secretsInForce(stored, now) {
		if ends := now.Add(grace).UnixMilli(); kept.ends == 0 || kept.ends > ends {
			kept.ends = ends
		}
		if kept.ends > now.UnixMilli() {
			list = append(list, kept)
		}
	}
	if len(list) > maxSecrets {
		return &Error{codes.FailedPrecondition, "name", fmt.Sprintf("has %d secrets in force already; wait for one to end, or give a grace of 0 s", maxSecrets)}
	}
	s.keepSecrets(stored, list)
	followSecret(sub, secret)
	touch(sub)
	return nil
}

// ListSigningKeys implements SubscriptionService.
func (s *Server) ListSigningKeys(ctx context.Context, request *fanfarev1.ListSigningKeysRequest) (*fanfarev1.ListSigningKeysResponse, error) {
	tenant, err := parseTenant("parent", request.GetParent())
	if err != nil {
		return nil, err
	}
	page, err := pageOf(request.GetPageSize(), request.GetPageToken())
	if err != nil {
		return nil, err
	}
	after, err := parseNumberToken(page.Token)
	if err != nil {
		return nil, err
	}
	response := new(fanfarev1.ListSigningKeysResponse)
	if request.GetSubscription() != "" {
		id := strings.TrimPrefix(request.GetSubscription(), subscriptionName(tenant, ""))
		err = s.read(ctx, tenant, func(l *ledger.Ledger) {
			if sub := l.SubscriptionByID(tenant, id); sub != nil {
				response.Keys = signingKeys(sub.Stored)
			}
		})
		return response, err
	}
	err = s.read(ctx, tenant, func(l *ledger.Ledger) {
		found := l.TenantSubscriptions(tenant, after, page.Size+1)
		if len(found) > page.Size {
			found = found[:page.Size]
			response.NextPageToken = numberToken(found[len(found)-1].Number)
		}
		for _, sub := range found {
			response.Keys = append(response.Keys, signingKeys(sub.Stored)...)
		}
	})
	return response, err
}

// signingKeys returns the public keys of a subscription, newest first.
func signingKeys(stored *linkv1.StoredSubscription) []*fanfarev1.SigningKey {
	var keys []*fanfarev1.SigningKey
	for _, kept := range secretsInForce(stored, time.Now()) {
		public, err := signature.ParsePublicKey(kept.public)
		if err != nil {
			continue // it has none
		}
		x := base64.RawURLEncoding.EncodeToString(public.Bytes())
		thumbprint := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + x + `"}`)) // RFC 7638, RFC 8037
		keys = append(keys, &fanfarev1.SigningKey{
			Kty: "OKP", Crv: "Ed25519", X: x, Kid: base64.RawURLEncoding.EncodeToString(thumbprint[:]), Use: "sig", Alg: "EdDSA",
			PublicKey:    kept.public,
			Subscription: subscriptionName(ledger.TenantID(stored.GetTenant()), stored.GetId()),
			ExpireTime:   endOf(kept),
		})
	}
	return keys
}
