package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/internal/diagnose"
	"github.com/fanfare-dev/fanfare/signature"
)

// maxRequestFile bounds what verify reads.
const maxRequestFile = 64 << 20

const verifyLong = `Verify says whether the signature of a webhook that was received holds, and if
not, why: it makes the usual mistakes of receivers on purpose (a body that was
decoded and encoded anew, a line end too many, a secret that was not decoded, a
header that was cut, a clock that is wrong, …) and names the one with which it
holds.

The request is a file of header lines, an empty line and the body, as it went
over the wire; or headers with --header and the body in a file of its own.

It exits with 0 if the signature holds, and with 1 if it does not.`

func verifyCommand() *cobra.Command {
	var options verifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Say whether a webhook's signature holds, and if not, why",
		Long:  verifyLong,
		Example: `  fanfare verify --secret whsec_… --request request.txt
  fanfare verify --secret whsec_… --body body.json -H 'webhook-id: msg_1' \
      -H 'webhook-timestamp: 1767323045' -H 'webhook-signature: v1,…'
  fanfare verify --scheme github --secret "$SECRET" --body - -H "x-hub-signature-256: $SIGNATURE" <body.json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return options.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&options.secrets, "secret", nil, "`secret` that it should be signed with (may be repeated)")
	flags.StringArrayVar(&options.keys, "public-key", nil, "whpk_… `key` of the sender (may be repeated)")
	flags.StringVar(&options.request, "request", "", "`file` with headers, an empty line and the body; - is standard input")
	flags.StringVar(&options.body, "body", "", "`file` with the body; - is standard input")
	flags.StringArrayVarP(&options.headers, "header", "H", nil, "`header` of the request, as 'name: value' (may be repeated)")
	flags.StringVar(&options.scheme, "scheme", "standard", "standard, github, stripe or hmac")
	flags.StringVar(&options.hmac.Header, "hmac-header", "", "of --scheme hmac: the `header` with the signature")
	flags.StringVar(&options.hmac.Algorithm, "hmac-algorithm", "sha256", "of --scheme hmac: sha1, sha256, sha384 or sha512")
	flags.StringVar(&options.hmac.Encoding, "hmac-encoding", "hex", "of --scheme hmac: hex or base64")
	flags.StringVar(&options.hmac.Prefix, "hmac-prefix", "", "of --scheme hmac: what stands in front of the signature")
	flags.StringVar(&options.hmac.TimestampHeader, "hmac-timestamp-header", "", "of --scheme hmac: the `header` with the time")
	flags.StringVar(&options.hmac.Content, "hmac-content", "{body}", "of --scheme hmac: what is signed, of {id}, {timestamp} and {body}")
	flags.DurationVar(&options.tolerance, "tolerance", signature.DefaultTolerance, "how old the signature may be")
	flags.Var(&options.now, "now", "take this for the time of day (default the clock's)")
	complete(cmd, "scheme", "standard", "github", "stripe", "hmac")
	return cmd
}

type verifyOptions struct {
	secrets, keys, headers []string
	request, body, scheme  string
	hmac                   signature.HMAC
	tolerance              time.Duration
	now                    timeFlag
}

// errInvalidSignature is how verify ends when it has said what is wrong.
var errInvalidSignature = errors.New("the signature does not hold")

func (o *verifyOptions) run(cmd *cobra.Command) error {
	c, err := o.resolve(cmd.InOrStdin())
	if err != nil {
		return err
	}
	finding, out := diagnose.Explain(c), cmd.OutOrStdout()
	if finding.Valid {
		_, err := fmt.Fprintln(out, "valid: the signature holds")
		return err
	}
	fmt.Fprintf(out, "invalid: %s\n", singleLine(finding.Problem))
	for _, mistake := range finding.Mistakes {
		fmt.Fprintf(out, "  found: %s\n", singleLine(mistake))
	}
	if len(finding.Mistakes) == 0 {
		fmt.Fprintln(out, "  none of the usual mistakes explains it: another secret was used, or the body is not the one that was sent")
	}
	return errInvalidSignature
}

// resolve reads what the flags name.
func (o *verifyOptions) resolve(stdin io.Reader) (diagnose.Case, error) {
	c := diagnose.Case{Secrets: o.secrets, Tolerance: o.tolerance, Now: time.Now()}
	if o.now.value != nil {
		c.Now = o.now.value.AsTime()
	}
	if len(o.secrets)+len(o.keys) == 0 {
		return c, usagef("--secret or --public-key is needed")
	}
	for _, text := range o.keys {
		key, err := signature.ParsePublicKey(text)
		if err != nil {
			return c, usagef("reading --public-key: %w", err)
		}
		c.Keys = append(c.Keys, key)
	}
	var err error
	if c.Scheme, err = o.parseScheme(); err != nil {
		return c, err
	}
	c.Request, err = o.read(stdin)
	return c, err
}

func (o *verifyOptions) parseScheme() (diagnose.Scheme, error) {
	switch o.scheme {
	case "standard":
		return diagnose.Standard(), nil
	case "github":
		return diagnose.GitHub(), nil
	case "stripe":
		return diagnose.Stripe(), nil
	case "hmac":
		custom, err := signature.Custom(o.hmac)
		if err != nil {
			return diagnose.Scheme{}, usagef("--hmac-%w", err)
		}
		return diagnose.Scheme{Name: "hmac", Scheme: custom}, nil
	}
	return diagnose.Scheme{}, usagef("--scheme is %q; standard, github, stripe and hmac are known", o.scheme)
}

// read reads the request.
func (o *verifyOptions) read(stdin io.Reader) (diagnose.Request, error) {
	if (o.request == "") == (o.body == "") {
		return diagnose.Request{}, usagef("one of --request and --body is needed")
	}
	request := diagnose.Request{Header: make(http.Header)}
	if o.request != "" {
		raw, err := readSome(o.request, stdin)
		if err != nil {
			return request, fmt.Errorf("reading --request: %w", err)
		}
		if request, err = parseRequest(raw); err != nil {
			return request, fmt.Errorf("reading --request: %w", err)
		}
	}
	for _, line := range o.headers {
		name, value, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return request, usagef("--header is %q; want 'name: value'", line)
		}
		request.Header.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	if o.body != "" {
		body, err := readSome(o.body, stdin)
		if err != nil {
			return request, fmt.Errorf("reading --body: %w", err)
		}
		request.Body = body
	}
	return request, nil
}

// readSome reads a file, or standard input.
func readSome(path string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if path != "-" {
		file, err := os.Open(path) //nolint:gosec // the user says which file
		if err != nil {
			return nil, err
		}
		defer file.Close() //nolint:errcheck // it was only read
		in = file
	}
	all, err := io.ReadAll(io.LimitReader(in, maxRequestFile+1))
	if err == nil && len(all) > maxRequestFile {
		err = fmt.Errorf("it is longer than %s", size(maxRequestFile))
	}
	return all, err
}

// parseRequest reads header lines, with or without the request line in front, an
// empty line, and takes all behind it for the body, byte for byte.
func parseRequest(raw []byte) (diagnose.Request, error) {
	head, body, ok := bytes.Cut(raw, []byte("\r\n\r\n"))
	if short, rest, found := bytes.Cut(raw, []byte("\n\n")); found && (!ok || len(short) < len(head)) {
		head, body, ok = short, rest, true
	}
	if !ok {
		return diagnose.Request{}, errors.New("no empty line stands between headers and body")
	}
	if line, rest, _ := bytes.Cut(head, []byte("\n")); bytes.Contains(line, []byte(" HTTP/")) {
		head = rest
	}
	lines := textproto.NewReader(bufio.NewReader(io.MultiReader(bytes.NewReader(head), strings.NewReader("\r\n\r\n"))))
	header, err := lines.ReadMIMEHeader()
	if err != nil {
		return diagnose.Request{}, fmt.Errorf("reading headers: %w", err)
	}
	return diagnose.Request{Header: http.Header(header), Body: body}, nil
}
