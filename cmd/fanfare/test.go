package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func testSubscriptionCommand(s *settings) *cobra.Command {
	var eventType, data, contentType string
	cmd := &cobra.Command{
		Use:   "test ID",
		Short: "Send a sample to an endpoint and show what it answers",
		Long: `Send one event of any type to a subscription's endpoint now, as it would be sent,
and show the request and the answer. The event is not kept and not tried again.
If the endpoint fails, so does the command.`,
		Example: `  fanfare subscriptions test sub_1f4
  fanfare subscriptions test sub_1f4 --type order.created --data '{"order": 42}'`,
		Args:              oneArg("subscription"),
		ValidArgsFunction: s.completeSubscriptions,
	}
	cmd.Flags().StringVar(&eventType, "type", "", "the event's type (default fanfare.test)")
	cmd.Flags().StringVar(&data, "data", "", `the event's data (default {"test":true})`)
	cmd.Flags().StringVar(&contentType, "content-type", "", "media type of the data (default application/json)")
	cmd.RunE = s.run(func(ctx context.Context, c *client, args []string) error {
		name, err := c.resourceName("subscriptions", args[0])
		if err != nil {
			return err
		}
		sent, err := c.subscriptions().SendTest(ctx, &fanfarev1.SendTestRequest{
			Name: name, EventType: eventType, Data: []byte(data), DataContentType: contentType,
		})
		if err != nil {
			return err
		}
		if err := c.print(sent, exchangeText(sent)); err != nil {
			return err
		}
		if sent.GetErrorClass() != "" {
			return fmt.Errorf("the endpoint failed (%s): %s", sent.GetErrorClass(), singleLine(sent.GetError()))
		}
		return nil
	})
	return cmd
}

// exchangeText shows a request and its answer as HTTP/1.1 would have them.
func exchangeText(sent *fanfarev1.SendTestResponse) text {
	var b strings.Builder
	fmt.Fprintf(&b, "POST %s\n", singleLine(sent.GetUrl()))
	writeHeaders(&b, sent.GetRequestHeaders())
	fmt.Fprintf(&b, "\n%s\n\n", bodyText(sent.GetRequestBody()))
	if sent.GetStatusCode() == 0 {
		fmt.Fprintf(&b, "no answer, after %s\n", span(sent.GetLatency()))
		return text(b.String())
	}
	fmt.Fprintf(&b, "%d, after %s\n", sent.GetStatusCode(), span(sent.GetLatency()))
	writeHeaders(&b, sent.GetResponseHeaders())
	if len(sent.GetResponseBody()) > 0 {
		fmt.Fprintf(&b, "\n%s\n", bodyText(sent.GetResponseBody()))
	}
	return text(b.String())
}

// bodyText is a body as it is, or its size if it is no text, as when it is
// compressed.
func bodyText(body []byte) string {
	if !utf8.Valid(body) {
		return fmt.Sprintf("(%d bytes that are no text)", len(body))
	}
	return printable(string(body))
}

func writeHeaders(b *strings.Builder, headers map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		fmt.Fprintf(b, "%s: %s\n", singleLine(name), singleLine(headers[name]))
	}
}
