package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

func eventsCommand(s *settings) *cobra.Command {
	cmd := newGroup("events", "Look at what was published",
		"Look at events that were published, for as long as the history keeps them.",
		listEventsCommand(s),
		getEventCommand(s),
		exportEventsCommand(s),
	)
	cmd.Aliases = []string{"event"}
	return cmd
}

func listEventsCommand(s *settings) *cobra.Command {
	var (
		pages     paging
		within    timeRange
		eventType string
		trace     string
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List events, newest first",
		Long:  "List the tenant's events, newest first, without their data.",
		Example: `  fanfare events list --since 1h
  fanfare events list --type order.created --all -o json`,
		Args: noArgs,
		RunE: s.run(func(ctx context.Context, c *client, _ []string) error {
			events := listing[*fanfarev1.ListEventsResponse]{view: eventTable}
			events.fetch = func(ctx context.Context, size int32, token string) (*fanfarev1.ListEventsResponse, error) {
				return c.events().ListEvents(ctx, &fanfarev1.ListEventsRequest{
					Parent: c.tenant, PageSize: size, PageToken: token,
					Type: eventType, TraceId: trace, StartTime: within.since.value, EndTime: within.until.value,
				})
			}
			return events.print(ctx, c, pages)
		}),
	}
	cmd.Flags().StringVar(&eventType, "type", "", "only events of exactly this type")
	cmd.Flags().StringVar(&trace, "trace", "", "only events published in this trace")
	within.register(cmd, "events published")
	pages.register(cmd)
	return cmd
}

func exportEventsCommand(s *settings) *cobra.Command {
	var (
		within           timeRange
		eventType, trace string
	)
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write events as lines of JSON, newest first",
		Long: `Write events to standard output, each as one line of JSON with its data in base64,
newest first. How far it is is said on standard error. Data that the history no
longer keeps is absent, and dataExpired is true.`,
		Example: `  fanfare events export --since 24h > events.jsonl
  fanfare events export --type order.created | jq -r '.event.data | @base64d'`,
		Args: noArgs,
		RunE: s.run(func(ctx context.Context, c *client, _ []string) error {
			stream, err := c.events().ExportEvents(ctx, &fanfarev1.ExportEventsRequest{
				Parent: c.tenant, Type: eventType, TraceId: trace,
				StartTime: within.since.value, EndTime: within.until.value,
			})
			if err != nil {
				return err
			}
			return writeExport(c, "events", stream)
		}),
	}
	cmd.Flags().StringVar(&eventType, "type", "", "only events of exactly this type")
	cmd.Flags().StringVar(&trace, "trace", "", "only events published in this trace")
	within.register(cmd, "events published")
	return cmd
}

func getEventCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "get ID",
		Short:   "Show one event with its data",
		Long:    "Show one event with its data. With -o json the data is in base64, whatever it is.",
		Example: "  fanfare events get evt_01k9zq7h3d8vj1m4w0e5t6y7u8",
		Args:    oneArg("event"),
		RunE: s.run(func(ctx context.Context, c *client, args []string) error {
			name, err := c.resourceName("events", args[0])
			if err != nil {
				return err
			}
			event, err := c.events().GetEvent(ctx, &fanfarev1.GetEventRequest{Name: name})
			if err != nil {
				return err
			}
			return c.print(event, views{eventDetails(event), eventData(event)})
		}),
	}
}

func eventTable(page *fanfarev1.ListEventsResponse) table {
	t := table{
		header: []string{"PUBLISHED", "ID", "TYPE", "SUBJECT", "KEY"},
		empty:  "No events.",
	}
	for _, e := range page.GetEvents() {
		t.rows = append(t.rows, []string{
			moment(e.GetPublishTime()), e.GetId(), e.GetType(), e.GetSubject(), e.GetOrderingKey(),
		})
	}
	return t
}

func eventDetails(e *fanfarev1.Event) details {
	d := details{
		{"ID", e.GetId()},
		{"Name", e.GetName()},
		{"Type", e.GetType()},
		{"Source", e.GetSource()},
		{"Subject", e.GetSubject()},
		{"Time", moment(e.GetTime())},
		{"Published", moment(e.GetPublishTime())},
		{"Ordering key", e.GetOrderingKey()},
		{"Content type", e.GetDataContentType()},
		{"Schema", e.GetDataSchema()},
	}
	for _, name := range slices.Sorted(maps.Keys(e.GetExtensions())) {
		d = append(d, [2]string{"Extension " + name, e.GetExtensions()[name]})
	}
	return d
}

// eventData shows data as far as it is text; JSON is indented.
func eventData(e *fanfarev1.Event) text {
	data := e.GetData()
	if e.GetDataExpired() {
		return text("(the history no longer keeps the data)\n")
	}
	if !utf8.Valid(data) {
		return text(fmt.Sprintf("(%d bytes that are not text; -o json has them in base64)\n", len(data)))
	}
	var indented bytes.Buffer
	if isJSONType(e.GetDataContentType()) && json.Indent(&indented, data, "", "  ") == nil {
		data = indented.Bytes()
	}
	return text(strings.TrimRight(printable(string(data)), "\n") + "\n")
}
