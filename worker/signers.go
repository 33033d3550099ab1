package worker

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/fanfare-dev/fanfare/internal/signing"
	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	"github.com/fanfare-dev/fanfare/signature"
)

// errNoSecret: nothing is ever sent unsigned.
var errNoSecret = errors.New("subscription has no signing secret")

// signers signs for one endpoint, at any time with the secrets that are in
// force then, by the worker's clock. Safe for concurrent use.
type signers struct {
	scheme  signature.Scheme
	secrets []expiringSecret // newest first
	current atomic.Pointer[currentSigner]
}

// expiringSecret is a secret with the end of its time.
type expiringSecret struct {
	secret signature.Secret
	ends   int64 // unix ms
}

// currentSigner is the signer of a stretch of time.
type currentSigner struct {
	signer *signature.Signer
	from   int64 // unix ms
	until  int64
}

func newSigners(e *linkv1.Endpoint) (*signers, error) {
	how := e.GetSubscription().GetSigning()
	scheme, err := signing.Scheme(how)
	if err != nil {
		return nil, fmt.Errorf("reading signing.%w", err)
	}
	s := &signers{scheme: scheme}
	for i, text := range e.GetSecrets() {
		secret, err := signing.ParseSecret(how, text)
		if err != nil {
			return nil, fmt.Errorf("reading signing secret: %w", err)
		}
		ends := int64(math.MaxInt64)
		if all := e.GetSecretExpireTimesUnixMs(); i < len(all) && all[i] != 0 {
			ends = all[i]
		}
		s.secrets = append(s.secrets, expiringSecret{secret, ends})
	}
	if len(s.secrets) == 0 {
		return nil, errNoSecret
	}
	return s, nil
}

// at returns what signs at a time, or errNoSecret if every secret has ended.
func (s *signers) at(now time.Time) (*signature.Signer, error) {
	ms := now.UnixMilli()
	if current := s.current.Load(); current != nil && current.from <= ms && ms < current.until {
		return current.signer, nil
	}
	current := &currentSigner{from: ms, until: math.MaxInt64}
	var inForce []signature.Secret
	for _, e := range s.secrets {
		if e.ends > ms {
			inForce = append(inForce, e.secret)
			current.until = min(current.until, e.ends)
		}
	}
	if len(inForce) == 0 {
		return nil, errNoSecret
	}
	var err error
	if current.signer, err = s.scheme.NewSigner(inForce...); err != nil {
		return nil, err
	}
	s.current.Store(current)
	return current.signer, nil
}
