package receiver

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// decompress returns what a body says without its content-encoding: gzip is
// understood, as Fanfare sends it. It is asked only once the signature holds,
// which is of the compressed bytes. An error is an *Error of kind TooLarge, if it
// has more than most bytes then, or Malformed.
func decompress(header http.Header, body []byte, most int64) ([]byte, error) {
	switch encoding := strings.ToLower(strings.TrimSpace(header.Get("Content-Encoding"))); encoding {
	case "", "identity":
		return body, nil
	case "gzip", "x-gzip":
	default:
		return nil, &Error{Malformed, fmt.Errorf("content-encoding is %q; gzip is understood", encoding)}
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, &Error{Malformed, fmt.Errorf("decompressing the body: %w", err)}
	}
	content, err := io.ReadAll(io.LimitReader(unpacked, most+1))
	switch {
	case err != nil:
		return nil, &Error{Malformed, fmt.Errorf("decompressing the body: %w", err)}
	case int64(len(content)) > most:
		return nil, &Error{TooLarge, fmt.Errorf("decompressed, the body has more than %d bytes", most)}
	}
	return content, nil
}
