package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/fanfare-dev/fanfare/signature"
)

// awaitText waits until what a process writes into a file matches, and sets
// variables to what the groups of the pattern matched:
//
//	await FILE REGEXP [VARIABLE…]
//
// A process writes into a file when it is run as
//
//	exec sh -c 'exec fanfare … 2>FILE' &NAME&
func awaitText(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await FILE REGEXP [VARIABLE...]")
	}
	file, pattern := ts.MkAbs(args[0]), compile(ts, args[1])
	var match []string
	scriptPoll(ts, "await "+strings.Join(args, " "), func() bool {
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			ts.Check(err)
		}
		match = pattern.FindStringSubmatch(string(text))
		return match != nil
	})
	setVariables(ts, args[2:], match)
}

// captureText sets variables to what the groups of the pattern match in the
// last command's output:
//
//	capture REGEXP VARIABLE…
func captureText(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: capture REGEXP VARIABLE...")
	}
	match := compile(ts, args[0]).FindStringSubmatch(ts.ReadFile("stdout"))
	if match == nil {
		ts.Fatalf("nothing in stdout matches %s", args[0])
	}
	setVariables(ts, args[1:], match)
}

// eventuallyPrints runs a program again and again until it succeeds and its
// output matches:
//
//	eventually REGEXP PROGRAM [ARG…]
func eventuallyPrints(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually REGEXP PROGRAM [ARG...]")
	}
	pattern := compile(ts, args[0])
	scriptPoll(ts, "eventually "+strings.Join(args, " "), func() bool {
		return ts.Exec(args[1], args[2:]...) == nil && pattern.MatchString(ts.ReadFile("stdout"))
	})
}

// sendWebhook sends a webhook and prints the status of the answer:
//
//	webhook [-secret SECRET] [-timeout DURATION] URL ID
//
// It prints `no answer` if there is none within the timeout.
func sendWebhook(ts *testscript.TestScript, neg bool, args []string) {
	flags := flag.NewFlagSet("webhook", flag.ContinueOnError)
	secret := flags.String("secret", "", "")
	timeout := flags.Duration("timeout", patience, "")
	ts.Check(flags.Parse(args))
	if neg || flags.NArg() != 2 {
		ts.Fatalf("usage: webhook [-secret SECRET] [-timeout DURATION] URL ID")
	}
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	body := []byte(`{"type":"order.created","data":{}}`)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, flags.Arg(0), bytes.NewReader(body))
	ts.Check(err)
	request.Header.Set(signature.HeaderID, flags.Arg(1))
	if *secret != "" {
		signed, err := signature.ParseSecret(*secret)
		ts.Check(err)
		signature.NewSigner(signed).SetHeaders(request.Header, signature.Message{ID: flags.Arg(1), Timestamp: time.Now(), Body: body})
	}
	response, err := new(http.Client).Do(request)
	if err != nil && ctx.Err() != nil {
		fmt.Fprintln(ts.Stdout(), "no answer")
		return
	}
	ts.Check(err)
	ts.Check(response.Body.Close())
	fmt.Fprintln(ts.Stdout(), response.StatusCode)
}

// getURL prints what a URL has to say:
//
//	get URL
func getURL(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: get URL")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], http.NoBody)
	ts.Check(err)
	response, err := new(http.Client).Do(request)
	ts.Check(err)
	defer response.Body.Close()
	_, err = io.Copy(ts.Stdout(), response.Body)
	ts.Check(err)
}

// newSecret sets a variable to a new signing secret:
//
//	secret VARIABLE
func newSecret(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: secret VARIABLE")
	}
	secret, err := signature.NewSecret(rand.Reader)
	ts.Check(err)
	ts.Setenv(args[0], secret.Reveal())
}

func compile(ts *testscript.TestScript, pattern string) *regexp.Regexp {
	compiled, err := regexp.Compile("(?m)" + pattern)
	ts.Check(err)
	return compiled
}

func scriptPoll(ts *testscript.TestScript, what string, done func() bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if !poll(ctx, done) {
		ts.Fatalf("waited %v in vain: %s", patience, what)
	}
}

func setVariables(ts *testscript.TestScript, names, match []string) {
	if len(names) >= len(match) {
		ts.Fatalf("%d variables for %d groups", len(names), len(match)-1)
	}
	for i, name := range names {
		ts.Setenv(name, match[i+1])
	}
}
