package main

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
)

// largestPage is the most the server puts on a page.
const largestPage = 1000

// paging holds the flags that every list command has.
type paging struct {
	size  int32
	token string
	all   bool
}

func (p *paging) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Int32Var(&p.size, "page-size", 0, "how many to ask for at once (the server's default is 50, its limit 1000)")
	flags.StringVar(&p.token, "page-token", "", "go on after the page that gave this token")
	flags.BoolVar(&p.all, "all", false, "read all pages, from --page-token on if given, before printing")
}

// page is what every List call answers.
type page interface {
	proto.Message
	GetNextPageToken() string
}

// listing is one List call and how its answer looks.
type listing[P page] struct {
	fetch func(ctx context.Context, size int32, token string) (P, error)
	view  func(P) table
}

// print fetches one page, or with --all every page joined into one answer,
// and prints it.
func (l listing[P]) print(ctx context.Context, c *client, p paging) error {
	if p.all && p.size == 0 {
		p.size = largestPage
	}
	answer, err := l.fetch(ctx, p.size, p.token)
	if err != nil {
		return err
	}
	if p.all {
		if err := l.join(ctx, answer, p.size); err != nil {
			return err
		}
	}
	if err := c.print(answer, l.view(answer)); err != nil {
		return err
	}
	if token := answer.GetNextPageToken(); token != "" && c.format == formatTable {
		c.note("There is more: add --page-token %s for the next page, or --all.", token)
	}
	return nil
}

// join appends all later pages to the first.
func (l listing[P]) join(ctx context.Context, first P, size int32) error {
	for first.GetNextPageToken() != "" {
		next, err := l.fetch(ctx, size, first.GetNextPageToken())
		if err != nil {
			return err
		}
		fields := first.ProtoReflect()
		fields.Clear(fields.Descriptor().Fields().ByName("next_page_token"))
		proto.Merge(first, next)
	}
	return nil
}
