package receiver

import (
	"bytes"
	"net/http"
	"net/url"

	"github.com/fanfare-dev/fanfare/signature"
)

// identify returns by what each event of a request is recognised when it comes
// again; an event without an identity is by nothing.
//
// A Standard Webhooks signature has webhook-id in it, and no other header: who
// plays a request back with another ce-id, or as one of GitHub, must not make
// another event of it. So the event of such a request goes by webhook-id, unless
// the body may be a batch: the id is the batch's then, and the signed body has
// those of its events. Any other event goes by its own ID, and where it has a
// source by both: ids of CloudEvents are unique within their source only.
func identify(events []*Event, header http.Header, body []byte, by *signature.Verifier) []arrival {
	sent := ""
	if by != nil && by.Scheme.IsStandard() && !bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
		sent = header.Get(signature.HeaderID)
	}
	arrivals := make([]arrival, len(events))
	for i, e := range events {
		arrivals[i] = arrival{e, ""}
		switch {
		case sent != "":
			arrivals[i].identity = url.PathEscape(sent)
		case e.ID != "" && e.Source != "":
			arrivals[i].identity = url.PathEscape(e.Source) + "/" + url.PathEscape(e.ID)
		case e.ID != "":
			arrivals[i].identity = url.PathEscape(e.ID)
		}
	}
	return arrivals
}
