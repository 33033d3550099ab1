package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const (
	// maxDataBytes bounds what is read as one event's data. The server's own
	// limit is lower and gives the better message; this one ends a wrong pipe.
	maxDataBytes = 1 << 20

	// publishTries is how often a batch of a file is sent before the command
	// gives up: over about 15 s if the server is away.
	publishTries = 8
)

const publishLong = `Publish one event, or a file of them. The command ends once they are durable.

One event is described by flags; its data comes from --data, from a file, or
from standard input (--data-file - or a single - at the end). Data is JSON
unless --content-type says otherwise.

--file reads JSON Lines, one event a line, and publishes them in batches of up
to 1,000. A line is one of:

  a CloudEvent   {"specversion":"1.0","id":"1","source":"/shop","type":"order.created","data":{}}
  an event       {"type":"order.created","data":{},"orderingKey":"customer-7"}

In the second form data is an object, an array, a number, or (as in the REST
interface) the bytes in base64. Fields are named as the REST interface has them.

Events of a file that have no id are given one before they are sent, so a
batch is sent again, safely, when the server does not answer. An event whose
id was published before is not published twice; its line says "duplicate".`

const publishExample = `  fanfare publish --type order.created --data '{"order": 1}'
  fanfare publish --type invoice.paid --id inv-17 --key customer-7 --data-file invoice.json
  date | fanfare publish --type clock.ticked --content-type text/plain -
  fanfare publish --file events.jsonl --quiet
  zcat events.jsonl.gz | fanfare publish --file - -o json`

// publishFlags are the flags of `publish`.
type publishFlags struct {
	event      fanfarev1.Event // all but data and extensions
	data       string
	dataFile   string
	extensions []string
	file       string
	quiet      bool
}

func publishCommand(s *settings) *cobra.Command {
	flags := &publishFlags{}
	cmd := &cobra.Command{
		Use:     "publish {--type TYPE [--data JSON | --data-file FILE | -] | --file FILE}",
		Short:   "Publish events",
		Long:    publishLong,
		Example: publishExample,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && args[0] != "-" {
				return usagef("takes no arguments but - for standard input, got %q", args[0])
			}
			return nil
		},
		DisableFlagsInUseLine: true,
	}
	flags.register(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := flags.check(cmd, args); err != nil {
			return err
		}
		if flags.file != "" {
			return s.run(flags.publishFile)(cmd, args)
		}
		return s.run(flags.publishOne)(cmd, args)
	}
	return cmd
}

func (f *publishFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.event.Type, "type", "", "what happened, as in order.created")
	flags.StringVar(&f.event.Id, "id", "", "the event's id (one is made if not given)")
	flags.StringVar(&f.event.Source, "source", "", "where it happened, a URI reference (default /tenants/TENANT)")
	flags.StringVar(&f.event.Subject, "subject", "", "what it happened to")
	flags.StringVar(&f.event.OrderingKey, "key", "", "ordering key: events of equal keys belong in order")
	flags.StringVar(&f.event.DataContentType, "content-type", "", "media type of the data (default application/json)")
	flags.StringVar(&f.event.DataSchema, "schema", "", "URI of the schema that the data keeps to")
	flags.StringArrayVar(&f.extensions, "extension", nil, "a CloudEvents extension attribute, as `name=value`; may be repeated")
	flags.StringVar(&f.data, "data", "", "the data itself")
	flags.StringVar(&f.dataFile, "data-file", "", "file to read the data from; - for standard input")
	flags.StringVar(&f.file, "file", "", "JSON Lines file of events to publish; - for standard input")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "print how many were published, not each of them")
}

// check finds what flags cannot say about each other, and makes a - a file.
func (f *publishFlags) check(cmd *cobra.Command, args []string) error {
	sources := 0
	for _, flag := range []string{"data", "data-file", "file"} {
		if cmd.Flags().Changed(flag) {
			sources++
		}
	}
	if len(args) > 0 {
		sources++
		f.dataFile = args[0]
	}
	if sources > 1 {
		return usagef("only one of --data, --data-file, --file and - can be given")
	}
	if f.file == "" && f.event.GetType() == "" {
		return usagef("--type is required (or --file for a file of events)")
	}
	if f.file != "" && (proto.Size(&f.event) > 0 || len(f.extensions) > 0) {
		return usagef("--file holds whole events: flags that describe one cannot be given with it")
	}
	return nil
}

// publishOne publishes the event that the flags describe. It tries once: the
// user sees what happened.
func (f *publishFlags) publishOne(ctx context.Context, c *client, _ []string) error {
	event, err := f.describedEvent(c.stdin)
	if err != nil {
		return err
	}
	answer, err := c.events().Publish(ctx, &fanfarev1.PublishRequest{
		Parent: c.tenant,
		Events: []*fanfarev1.Event{event},
	})
	if err != nil {
		return err
	}
	if f.quiet {
		return newTally(answer.GetResults()).print(c)
	}
	return c.print(answer, resultLines(answer.GetResults()))
}

func (f *publishFlags) describedEvent(stdin io.Reader) (*fanfarev1.Event, error) {
	event := proto.CloneOf(&f.event)
	for _, extension := range f.extensions {
		name, value, ok := strings.Cut(extension, "=")
		if !ok || name == "" {
			return nil, usagef("--extension: want name=value, got %q", extension)
		}
		if event.Extensions == nil {
			event.Extensions = make(map[string]string)
		}
		event.Extensions[name] = value
	}
	if f.dataFile == "" {
		event.Data = []byte(f.data)
		return event, nil
	}
	in, err := openInput(f.dataFile, stdin)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxDataBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading data: %w", err)
	}
	if len(data) > maxDataBytes {
		return nil, fmt.Errorf("reading data: more than %s", size(maxDataBytes))
	}
	event.Data = data
	return event, nil
}

// openInput opens a file to read; - is standard input, which is left open.
func openInput(path string, stdin io.Reader) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(stdin), nil
	}
	return os.Open(path) //nolint:gosec // the user says which file
}

// publishFile publishes the events of a file, batch after batch. What a batch
// led to is printed before the next one is read.
func (f *publishFlags) publishFile(ctx context.Context, c *client, _ []string) error {
	in, err := openInput(f.file, c.stdin)
	if err != nil {
		return err
	}
	defer in.Close()
	batches := newBatchReader(in)
	var sum tally
	for {
		batch, err := batches.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w%s", f.file, err, sum.soFar())
		}
		results, err := publishBatch(ctx, c, batch)
		if err != nil {
			return fmt.Errorf("publishing lines %d to %d%s: %w", batch.firstLine, batch.lastLine, sum.soFar(), err)
		}
		sum.add(newTally(results))
		if err := f.printResults(c, results); err != nil {
			return err
		}
	}
	if f.quiet {
		return sum.print(c)
	}
	return nil
}

func (f *publishFlags) printResults(c *client, results []*fanfarev1.PublishResult) error {
	if f.quiet {
		return nil
	}
	if c.format != formatJSON {
		return c.show(resultLines(results))
	}
	for _, result := range results {
		if err := c.printLine(result, nil); err != nil {
			return err
		}
	}
	return nil
}

// publishBatch publishes events that all have ids, again and again while it
// is unknown whether they are durable.
func publishBatch(ctx context.Context, c *client, b batch) ([]*fanfarev1.PublishResult, error) {
	var waits retryWaits
	for try := 1; ; try++ {
		answer, err := c.events().Publish(ctx, &fanfarev1.PublishRequest{Parent: c.tenant, Events: b.events})
		if err == nil {
			return answer.GetResults(), nil
		}
		if try == publishTries || !outcomeUnknown(err) || ended(ctx) {
			return nil, err
		}
		wait := waits.next()
		c.note("fanfare: %s; publishing again in %s", describe(err), wait.Round(retryWaitPrecision))
		if !pause(ctx, wait) {
			return nil, ctx.Err()
		}
	}
}

// outcomeUnknown reports whether a Publish that failed with err may have
// stored its events, or may store them when it is called again.
func outcomeUnknown(err error) bool {
	code := codeOf(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded
}

// newEventID makes an id as the server would: the time in front, so that ids
// sort as they were made.
func newEventID() string {
	return "evt_" + strings.ToLower(ulid.Make().String())
}

// resultLines shows results as one line each.
func resultLines(results []*fanfarev1.PublishResult) text {
	var b strings.Builder
	for _, result := range results {
		outcome := "published"
		if result.GetDuplicate() {
			outcome = "duplicate"
		}
		b.WriteString(singleLine(result.GetId()) + "  " + outcome + "\n")
	}
	return text(b.String())
}

// tally counts events that are durable.
type tally struct{ published, duplicates int }

func newTally(results []*fanfarev1.PublishResult) tally {
	var t tally
	for _, result := range results {
		if result.GetDuplicate() {
			t.duplicates++
		} else {
			t.published++
		}
	}
	return t
}

func (t *tally) add(other tally) {
	t.published += other.published
	t.duplicates += other.duplicates
}

// soFar says what was done before something failed.
func (t *tally) soFar() string {
	if *t == (tally{}) {
		return ""
	}
	return fmt.Sprintf(" (after %d published and %d duplicate events)", t.published, t.duplicates)
}

func (t tally) print(c *client) error {
	if c.format == formatJSON {
		return c.writeln(fmt.Sprintf(`{"published":%d,"duplicates":%d}`, t.published, t.duplicates))
	}
	return c.writeln(fmt.Sprintf("%d published, %d duplicate", t.published, t.duplicates))
}
