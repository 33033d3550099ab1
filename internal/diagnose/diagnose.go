package diagnose

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fanfare-dev/fanfare/signature"
)

// anyAge is a tolerance that no timestamp is beyond.
const anyAge = 1 << 62

// Request is a webhook as it was received.
type Request struct {
	Header http.Header
	Body   []byte
}

// Scheme is a way to sign with the name it goes by.
type Scheme struct {
	Name string
	signature.Scheme
}

// Standard is the scheme of Standard Webhooks, whose secrets are whsec_….
func Standard() Scheme { return Scheme{"Standard Webhooks", signature.Standard()} }

// GitHub is the scheme of GitHub's webhooks, whose secrets are any text.
func GitHub() Scheme { return Scheme{"GitHub", signature.GitHub()} }

// Stripe is the scheme of Stripe's webhooks, whose secrets are any text.
func Stripe() Scheme { return Scheme{"Stripe", signature.Stripe()} }

// Case is what is to be explained.
type Case struct {
	Request Request
	Scheme  Scheme
	Secrets []string // as their owner has them
	Keys    []signature.PublicKey
	// Tolerance is how old a signature may be; 0 means the package's default.
	Tolerance time.Duration
	Now       time.Time
}

// Finding is what came of it.
type Finding struct {
	Valid bool
	// Problem is why it is not, in one sentence. Empty if Valid.
	Problem string
	// Mistakes are what, put right, makes the signature hold, or else what is
	// wrong for sure. Empty if none of the usual ones was found.
	Mistakes []string
}

// Explain says whether a signature holds, and if not, why.
func Explain(c Case) Finding {
	err := c.verify(c.Request, c.Scheme, c.Secrets, c.Tolerance)
	if err == nil {
		return Finding{Valid: true}
	}
	finding := Finding{Problem: problem(err)}
	if errors.Is(err, signature.ErrTooOld) || errors.Is(err, signature.ErrTooNew) {
		if c.verify(c.Request, c.Scheme, c.Secrets, anyAge) == nil {
			finding.Mistakes = []string{c.age()}
			return finding
		}
	}
	finding.Mistakes = c.search()
	if hint := c.length(); hint != "" && len(finding.Mistakes) == 0 {
		finding.Mistakes = []string{hint}
	}
	return finding
}

// length says if the body is not as long as the request says that it was. Nothing
// tells then what it was, but it was not this.
func (c Case) length() string {
	text := c.Request.Header.Get("Content-Length")
	sent, err := strconv.Atoi(text)
	if err != nil || sent == len(c.Request.Body) {
		return ""
	}
	return fmt.Sprintf("the body has %d bytes, and content-length says that %d were sent: it was cut, or decoded and encoded anew", len(c.Request.Body), sent)
}

// verify checks a request with secrets in text. One that cannot be read is no
// secret.
func (c Case) verify(r Request, scheme Scheme, secrets []string, tolerance time.Duration) error {
	v := signature.Verifier{Scheme: scheme.Scheme, PublicKeys: c.Keys, Tolerance: tolerance}
	var unreadable error
	for _, text := range secrets {
		secret, err := parse(scheme, text)
		if err != nil {
			unreadable = err
			continue
		}
		v.Secrets = append(v.Secrets, secret)
	}
	if len(v.Secrets) == 0 && len(v.PublicKeys) == 0 && unreadable != nil {
		return fmt.Errorf("reading the secret: %w", unreadable)
	}
	return v.Verify(r.Header, r.Body, c.Now)
}

// parse reads a secret as a scheme has it.
func parse(scheme Scheme, text string) (signature.Secret, error) {
	if scheme.Name == Standard().Name {
		return signature.ParseSecret(text)
	}
	return signature.TextSecret(text)
}

// problem puts why a signature does not hold in a sentence.
func problem(err error) string {
	missing, isMissing := errors.AsType[*signature.MissingHeaderError](err)
	switch {
	case isMissing:
		return "the header " + missing.Header + " is missing"
	case errors.Is(err, signature.ErrNoMatch):
		return "no signature in the header is that of this body by this secret"
	}
	return err.Error()
}

// age says how far the timestamp is from now.
func (c Case) age() string {
	for _, name := range []string{signature.HeaderTimestamp, "svix-timestamp"} {
		var seconds int64
		if _, err := fmt.Sscanf(c.Request.Header.Get(name), "%d", &seconds); err == nil {
			return "the signature is right, but " + describeAge(c.Now.Sub(time.Unix(seconds, 0))) +
				": it is a request played back, or one of the two clocks is wrong"
		}
	}
	return "the signature is right, but its time is too far from now: it is a request played back, or one of the two clocks is wrong"
}

func describeAge(age time.Duration) string {
	age = age.Round(time.Second)
	if age < 0 {
		return fmt.Sprintf("it was made %v in the future", -age)
	}
	return fmt.Sprintf("it was made %v ago", age)
}

// search makes one mistake after the other, and then two at a time, until the
// signature holds. Of the time it asks nothing.
func (c Case) search() []string {
	headers, bodies, secrets := headerMistakes(c.Request), bodyMistakes(c.Request), secretMistakes(c.Secrets)
	try := func(h headerMistake, b bodyMistake, s secretMistake) []string {
		request := Request{Header: h.header, Body: b.body}
		if c.verify(request, c.Scheme, s.secrets, anyAge) != nil {
			return nil
		}
		return nonEmpty(h.says, b.says, s.says)
	}
	for _, most := range []int{1, 2, 3} {
		for _, h := range headers {
			for _, b := range bodies {
				for _, s := range secrets {
					if n := len(nonEmpty(h.says, b.says, s.says)); n == 0 || n != most {
						continue
					}
					if found := try(h, b, s); found != nil {
						return found
					}
				}
			}
		}
		if most == 1 {
			if found := c.otherScheme(); found != "" {
				return []string{found}
			}
		}
	}
	return nil
}

// otherScheme says if the request was signed in another way than was said.
func (c Case) otherScheme() string {
	for _, scheme := range []Scheme{Standard(), GitHub(), Stripe()} {
		if scheme.Name != c.Scheme.Name && c.verify(c.Request, scheme, c.Secrets, anyAge) == nil {
			return "it is signed in the way of " + scheme.Name + ", not of " + c.Scheme.Name
		}
	}
	return ""
}

func nonEmpty(texts ...string) []string {
	var kept []string
	for _, text := range texts {
		if text = strings.TrimSpace(text); text != "" {
			kept = append(kept, text)
		}
	}
	return kept
}
