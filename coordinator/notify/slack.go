package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fanfare-dev/fanfare/coordinator/alert"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// maxAnswer is how much of an answer is read, in bytes: it says what is wrong.
const maxAnswer = 4096

// Slack is a Sink that posts to an incoming webhook of Slack, or of a chat that
// takes the same (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks).
type Slack struct {
	URL    string // a secret
	Client *http.Client
}

// Name implements Sink.
func (s *Slack) Name() string { return "slack" }

// Send implements Sink.
func (s *Slack) Send(ctx context.Context, what alert.Notification) error {
	body, err := json.Marshal(map[string]string{"text": slackText(what)})
	if err != nil {
		return &PermanentError{fmt.Errorf("encoding a message: %w", err)}
	}
	return post(ctx, s.Client, s.URL, body)
}

// slackText is a notification in Slack's mrkdwn.
func slackText(what alert.Notification) string {
	var b strings.Builder
	for _, a := range what.Alerts[:min(len(what.Alerts), shownAlerts)] {
		fmt.Fprintf(&b, "%s *%s* %s\n%s\n", slackMark(a, what.Repeated), slackEscape(a.GetKind()), slackEscape(subject(a)), slackEscape(a.GetSummary()))
		for _, field := range [][2]string{
			{"endpoint", endpoint(a)}, {"last failure", lastFailure(a)}, {"event", a.GetEvent()}, {"trace", a.GetTraceId()},
		} {
			if field[1] != "" {
				fmt.Fprintf(&b, "> %s: %s\n", field[0], slackEscape(field[1]))
			}
		}
		if a.GetLink() != "" {
			fmt.Fprintf(&b, "<%s|%s>\n", slackEscape(a.GetLink()), slackEscape(a.GetName()))
		}
	}
	if more := len(what.Alerts) - shownAlerts; more > 0 {
		fmt.Fprintf(&b, "and %d more of %s\n", more, slackEscape(what.Group))
	}
	return b.String()
}

func slackMark(a *fanfarev1.Alert, repeated bool) string {
	switch {
	case a.GetState() == fanfarev1.Alert_RESOLVED:
		return ":white_check_mark: resolved"
	case repeated:
		return ":repeat: still firing (" + a.GetSeverity() + ")"
	case a.GetSeverity() == alert.Critical:
		return ":rotating_light: critical"
	default:
		return ":warning: " + a.GetSeverity()
	}
}

// slackEscape keeps text from being markup: an endpoint's answer may try.
func slackEscape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "`", "'", "\n", " ", "\r", " ").Replace(text)
}

// NewClient returns a client for sinks: it follows no redirect, since what is
// posted would get lost on the way.
func NewClient() *http.Client {
	return &http.Client{
		Timeout:       SendTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 2,
			IdleConnTimeout: time.Minute, TLSHandshakeTimeout: SendTimeout, ResponseHeaderTimeout: SendTimeout,
		},
	}
}

// post posts JSON. An answer that says that it will never be taken is a
// *PermanentError. No error has the URL in it, which may be a secret.
func post(ctx context.Context, client *http.Client, to string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return &PermanentError{errors.New("the URL cannot be used")}
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	if err != nil {
		return fmt.Errorf("posting: %w", err)
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if response.StatusCode/100 == 2 {
		return nil
	}
	err = fmt.Errorf("it answered %s: %s", response.Status, strings.ToValidUTF8(string(answer), "?"))
	switch code := response.StatusCode; {
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= http.StatusInternalServerError:
		return err
	default:
		return &PermanentError{err}
	}
}
