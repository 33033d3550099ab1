package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"strconv"
	"strings"

	linkv1 "github.com/fanfare-dev/fanfare/proto/fanfare/link/v1"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
	"github.com/fanfare-dev/fanfare/worker/egress"
)

// The headers of the CloudEvents abuse protection, as net/http writes them.
const (
	requestOrigin = "Webhook-Request-Origin"
	requestRate   = "Webhook-Request-Rate"
	allowedOrigin = "Webhook-Allowed-Origin"
	allowedRate   = "Webhook-Allowed-Rate"
)

// anyValue in an answer stands for every origin, and for every rate.
const anyValue = "*"

// maxQuoted bounds what an error quotes of an endpoint's header.
const maxQuoted = 100

// Handshake asks an endpoint, in the name of an origin, whether it wants what is
// to be sent to it, as its subscription's handshake says (HTTP 1.1 Web Hooks for
// Event Delivery, section 4), and returns what it grants. It is shown the same
// credentials as later. An error says what it did instead.
func (t *Tester) Handshake(ctx context.Context, endpoint *linkv1.Endpoint, origin string) (*fanfarev1.WebhookHandshake, error) {
	target := newTarget(endpoint)
	if target.err != nil {
		return nil, target.err
	}
	asked := endpoint.GetSubscription().GetHandshake().GetRequestsPerMinute()
	header := http.Header{"User-Agent": {t.attempter.userAgent}, requestOrigin: {origin}}
	if asked != 0 {
		header[requestRate] = []string{strconv.FormatUint(uint64(asked), 10)}
	}
	limited, cancel := context.WithTimeout(ctx, target.timeout)
	defer cancel()
	met := t.ask(limited, target, header)
	if met.status == 0 {
		return nil, errors.New(errorText(met))
	}
	allowed, err := granted(met.header, origin, asked)
	if err != nil { // in which may be what the endpoint was shown
		return nil, fmt.Errorf("the endpoint answered %d %s", met.status, target.shown.mask([]byte(err.Error())))
	}
	return &fanfarev1.WebhookHandshake{RequestsPerMinute: asked, Origin: origin, AllowedRequestsPerMinute: allowed}, nil
}

// ask makes the request.
func (t *Tester) ask(ctx context.Context, target *target, header http.Header) *answer {
	all := make(http.Header)
	if !target.shown.isEmpty() {
		if _, err := target.shown.authorize(ctx, t.attempter.client, t.attempter.userAgent, all); err != nil {
			return tokenFailure(err)
		}
	}
	maps.Copy(all, header)
	req, err := http.NewRequestWithContext(egress.WithProfile(ctx, target.shown.profile), http.MethodOptions, target.url, http.NoBody)
	if err != nil {
		return &answer{class: egress.ClassOther, err: fmt.Errorf("making request: %w", err)}
	}
	req.Header = all
	resp, err := t.attempter.client.Do(req)
	if err != nil {
		met := &answer{class: egress.Classify(err), err: err}
		target.shown.maskAnswer(met)
		return met
	}
	return readAnswer(resp)
}

// granted reads from the header of an answer how many requests a minute an
// endpoint allows an origin that asked for so many; 0 stands for any number. It
// is the header that says it, whatever the status: an OPTIONS request is
// answered by many who know nothing of webhooks. An error completes a sentence
// about the answer.
func granted(header http.Header, origin string, asked uint32) (uint32, error) {
	switch to := strings.TrimSpace(header.Get(allowedOrigin)); {
	case to == "":
		return 0, errors.New("without WebHook-Allowed-Origin")
	case to != anyValue && !strings.EqualFold(to, origin):
		return 0, fmt.Errorf("with WebHook-Allowed-Origin %s, which is neither %s nor *", quote(to), origin)
	}
	switch text := strings.TrimSpace(header.Get(allowedRate)); text {
	case "":
		return asked, nil
	case anyValue:
		return 0, nil
	default:
		rate, err := parseRate(text)
		if err != nil {
			return 0, fmt.Errorf("with WebHook-Allowed-Rate %s, which is neither a positive number nor *", quote(text))
		}
		return rate, nil
	}
}

// parseRate reads a positive number. One that is too large to be reached is the
// largest there is.
func parseRate(text string) (uint32, error) {
	if strings.Trim(text, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	rate, err := strconv.ParseUint(text, 10, 32)
	if errors.Is(err, strconv.ErrRange) {
		return math.MaxUint32, nil
	}
	if err != nil || rate == 0 {
		return 0, strconv.ErrSyntax
	}
	return uint32(rate), nil
}

// quote quotes what an endpoint said, as far as that is not too long.
func quote(text string) string {
	if len(text) > maxQuoted {
		text = text[:maxQuoted] + "…"
	}
	return strconv.QuoteToASCII(text)
}
