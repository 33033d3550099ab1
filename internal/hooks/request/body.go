package request

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/fanfare-dev/fanfare/internal/hooks/spec"
)

// Limits of what a body may make of itself in memory.
const (
	// MaxValues bounds the values of a body: a body of 32 MiB could be ten
	// million empty lists, and take a gigabyte.
	MaxValues = 1 << 20
	// MaxXMLDepth bounds how deep elements of XML lie in each other. JSON is
	// bounded by encoding/json, at 10,000.
	MaxXMLDepth = 1000
	// valueBytes is about what a value takes in memory besides its text.
	valueBytes = 128
)

// Errors of multipart bodies. They end the request; all other mistakes of a
// body are only logged, and leave it without a payload.
var (
	ErrMultipart     = errors.New("parsing multipart form")
	ErrMultipartFile = errors.New("parsing multipart form file")
)

var errTooManyValues = fmt.Errorf("the body has more than %d values", MaxValues)

// Kind is how a body is parsed.
type Kind int

// Kinds of bodies.
const (
	Unsupported Kind = iota
	JSON
	Form
	XML
	Multipart
)

// multipartPrefix begins the content type of multipart bodies.
const multipartPrefix = "multipart/form-data;"

// KindOf tells by the content type how a body is parsed. It compares as
// upstream does: by parts of the text, in this order, and in this case.
func KindOf(contentType string) Kind {
	switch {
	case strings.Contains(contentType, "json"):
		return JSON
	case strings.Contains(contentType, "x-www-form-urlencoded"):
		return Form
	case strings.Contains(contentType, "xml"):
		return XML
	case strings.HasPrefix(contentType, multipartPrefix):
		return Multipart
	}
	return Unsupported
}

// IsMultipart reports whether upstream would leave the body unread for its
// multipart reader. The payload is then that of no other kind.
func IsMultipart(contentType string) bool { return strings.HasPrefix(contentType, multipartPrefix) }

// ParsedBytes is about how much memory a body will take once it is parsed.
func ParsedBytes(body []byte) int64 { return int64(valuesIn(body)) * valueBytes }

// valuesIn counts what could begin a value in JSON, a form, or XML outside of
// JSON's strings.
func valuesIn(body []byte) int {
	count, quoted := 1, false
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '\\':
			if quoted {
				i++
			}
		case '"':
			quoted = !quoted
		case '[', '{', ',', '&', '<', '=':
			if !quoted {
				count++
			}
		}
	}
	return count
}

func checkValues(text []byte) error {
	if valuesIn(text) > MaxValues {
		return errTooManyValues
	}
	return nil
}

// Logf writes a line to the log.
type Logf func(format string, args ...any)

// Parser parses bodies for one hook.
type Parser struct {
	// ContentType is what counts: the hook's, or else the request's.
	ContentType string
	// MultipartMemory is what multipart files may take before they go to disk.
	MultipartMemory int64
	// JSONParameters are the hook's parse-parameters-as-json.
	JSONParameters []spec.Argument
	// Logf is told of what cannot be parsed.
	Logf Logf
}

// Parse fills r.Payload from r.Body, and replaces the JSON parameters. original
// is the request that r was made from. An error is ErrMultipart or
// ErrMultipartFile.
func (p *Parser) Parse(r *Request, original *http.Request) error {
	body := r.Body
	if IsMultipart(p.ContentType) {
		r.RawBody, body = nil, nil // multipart is unread for the other kinds
	}
	if KindOf(p.ContentType) == Multipart {
		if err := p.parseMultipart(r, original); err != nil {
			return err
		}
	} else {
		r.Payload = p.parse(body)
	}
	for _, arg := range p.JSONParameters {
		if err := r.ParseAsJSON(arg); err != nil {
			p.Logf("error parsing JSON parameters: %v", err)
		}
	}
	return nil
}

func (p *Parser) parse(body []byte) map[string]any {
	if err := checkValues(body); err != nil {
		p.Logf("error parsing body payload: %v", err)
		return nil
	}
	var payload map[string]any
	var err error
	what := ""
	switch KindOf(p.ContentType) {
	case JSON:
		payload, what, err = parseJSON(body)
	case Form:
		what = "form payload"
		payload, err = parseForm(body)
	case XML:
		what = "XML payload:"
		payload, err = parseXML(body)
	case Multipart, Unsupported:
		p.Logf("error parsing body payload due to unsupported content type header: %s", p.ContentType)
		return nil
	}
	if err != nil {
		p.Logf("error parsing %s %v", what, err)
		return nil
	}
	return payload
}

// parseJSON decodes an object, or a list as {"root": […]}.
func parseJSON(body []byte) (payload map[string]any, what string, err error) {
	first := bytes.TrimLeftFunc(body, unicode.IsSpace)
	if len(first) == 0 || first[0] != '[' {
		payload, err = decodeObject(body)
		return payload, "JSON payload", err
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var list []any
	if err := decoder.Decode(&list); err != nil {
		return nil, "JSON array payload", err
	}
	return map[string]any{"root": list}, "", nil
}

func parseForm(body []byte) (map[string]any, error) {
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	return firstValues(values), nil
}

// parseMultipart reads the form by the header of the request itself, whatever
// the hook says its type is.
func (p *Parser) parseMultipart(r *Request, original *http.Request) error {
	again := original.Clone(original.Context())
	again.Body = io.NopCloser(bytes.NewReader(r.Body))
	again.URL.RawQuery = ""                                             // a mistake there is not one of the form
	if err := again.ParseMultipartForm(p.MultipartMemory); err != nil { //nolint:gosec // the body is in memory already, and bounded
		return fmt.Errorf("%w: %w", ErrMultipart, err)
	}
	defer func() {
		if err := again.MultipartForm.RemoveAll(); err != nil {
			p.Logf("error removing multipart files: %v", err)
		}
	}()
	for name, values := range again.MultipartForm.Value {
		p.Logf("found multipart form value %q", name)
		r.setPayload(name, values[0])
	}
	for name, files := range again.MultipartForm.File {
		if !p.isJSONFile(name, files[0]) {
			continue
		}
		p.Logf("parsing multipart form file %q as JSON", name)
		object, err := p.parseFile(files[0])
		if err != nil {
			return fmt.Errorf("%w: %w", ErrMultipartFile, err)
		}
		r.setPayload(name, object)
	}
	return nil
}

func (r *Request) setPayload(name string, value any) {
	if r.Payload == nil {
		r.Payload = map[string]any{}
	}
	r.Payload[name] = value
}

// isJSONFile reports whether a part with a file name is JSON: because it says
// so, in exactly these words, or because the hook does.
func (p *Parser) isJSONFile(name string, file *multipart.FileHeader) bool {
	for _, arg := range p.JSONParameters {
		if arg.Source == spec.SourcePayload && arg.Name == name {
			return true
		}
	}
	return slices.Contains(file.Header["Content-Type"], "application/json")
}

// parseFile returns the object in a file; a nil one if it is none. The error
// is of reading.
func (p *Parser) parseFile(header *multipart.FileHeader) (map[string]any, error) {
	file, err := header.Open()
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read from, or already ended
	content, err := io.ReadAll(file)
	if err != nil {
		return nil, err
	}
	if err := checkValues(content); err != nil {
		p.Logf("error parsing JSON payload %v", err)
		return nil, nil
	}
	object, err := decodeObject(content)
	if err != nil {
		p.Logf("error parsing JSON payload %v", err)
		return nil, nil
	}
	return object, nil
}
