package worker

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
)

// minCompressed is the length of a body from which on compressing it pays.
const minCompressed = 1024

// parseCompression reads Subscription.compression.
func parseCompression(name string) (zip bool, err error) {
	switch name {
	case "":
		return false, nil
	case "gzip":
		return true, nil
	}
	return false, fmt.Errorf("unknown compression %q", name)
}

// compressed returns the payload with its body in gzip, or the payload itself
// if that is no shorter. It is worked out once, whoever asks first.
func (p *payload) compressed() *payload {
	if len(p.body) < minCompressed {
		return p
	}
	p.zipOnce.Do(func() {
		p.zipped = p
		var out bytes.Buffer
		writer := gzip.NewWriter(&out)
		// A buffer takes everything.
		_, _ = writer.Write(p.body)
		_ = writer.Close()
		if out.Len() < len(p.body) {
			header := maps.Clone(p.header)
			header["Content-Encoding"] = []string{"gzip"}
			p.zipped = &payload{body: out.Bytes(), header: header, trace: p.trace}
		}
	})
	return p.zipped
}
