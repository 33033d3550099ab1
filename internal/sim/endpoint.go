package sim

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fanfare-dev/fanfare/signature"
)

// headerTimeout bounds how long an endpoint waits for a request's head.
const headerTimeout = time.Minute

// Answer is what an endpoint does with one request.
type Answer struct {
	Status     int           // 0: none, ever
	After      time.Duration // before it answers
	RetryAfter time.Duration // in the header of this name; 0: no header
}

// Behaviour decides on the n-th request of an event, from 1.
type Behaviour func(n int) Answer

// OK answers 200.
func OK() Behaviour { return Status(http.StatusOK) }

// Status always answers the same.
func Status(status int) Behaviour {
	return func(int) Answer { return Answer{Status: status} }
}

// FailFirst answers a status to the first k requests of an event, and then 200.
func FailFirst(k, status int) Behaviour {
	return func(n int) Answer {
		if n <= k {
			return Answer{Status: status}
		}
		return Answer{Status: http.StatusOK}
	}
}

// Hang never answers.
func Hang() Behaviour { return func(int) Answer { return Answer{} } }

// Slow answers 200 after a while.
func Slow(after time.Duration) Behaviour {
	return func(int) Answer { return Answer{Status: http.StatusOK, After: after} }
}

// Flapping answers 503 for a period, then 200 for one, and so on.
func Flapping(period time.Duration) Behaviour {
	start := time.Now()
	return func(int) Answer {
		if time.Since(start)/period%2 == 0 {
			return Answer{Status: http.StatusServiceUnavailable}
		}
		return Answer{Status: http.StatusOK}
	}
}

// Request is one that an endpoint has received; of a batch there is one for each
// event.
type Request struct {
	EventID string
	Batch   string // its id; empty: the event came alone
	Time    time.Time
	End     time.Time // when it was answered or cut off; zero: not (yet)
	Body    []byte
	Status  int    // answered; 0: not (yet)
	Signed  error  // what is wrong with the signature; nil: nothing
	Origin  string // in whose name it was sent; empty: nobody's

	UserAgent string // of whoever sent it: it ends in the worker's id
}

// Endpoint receives webhooks and remembers them. Safe for concurrent use.
type Endpoint struct {
	Name string
	URL  string

	secret signature.Secret // requests must be signed with

	mu        sync.Mutex
	behaviour Behaviour      // guarded by mu
	requests  []Request      // guarded by mu
	counts    map[string]int // guarded by mu; :: event id -> requests
	allows    string         // guarded by mu; requests a minute, if it consents to be sent to; empty: it does not
}

// Endpoint serves a new endpoint at http://<name>/, which answers 200 until
// told otherwise.
func (c *Cluster) Endpoint(name string) *Endpoint {
	secret, err := signature.NewSecret(rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	e := &Endpoint{
		Name: name, URL: "http://" + name + "/", secret: secret,
		behaviour: OK(), counts: make(map[string]int),
	}
	server := &http.Server{Handler: e, ReadHeaderTimeout: headerTimeout}
	served := make(chan error, 1)
	listener := c.network.listenHTTP(name, name+":80")
	go func() { served <- server.Serve(listener) }()
	c.endpoints = append(c.endpoints, e)
	c.ends = append(c.ends, func() error {
		return errors.Join(server.Close(), unlessClosed(<-served))
	})
	return e
}

func unlessClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Behave changes what the endpoint does from the next request on.
func (e *Endpoint) Behave(b Behaviour) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.behaviour = b
}

// Consent has the endpoint answer those who ask whether it wants to be sent to:
// so many requests a minute, or `*`.
func (e *Endpoint) Consent(perMinute string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.allows = perMinute
}

// handshake answers whether it does.
func (e *Endpoint) handshake(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.allows == "" {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("WebHook-Allowed-Origin", r.Header.Get("WebHook-Request-Origin"))
	w.Header().Set("WebHook-Allowed-Rate", e.allows)
}

// Requests returns what the endpoint has received, in order.
func (e *Endpoint) Requests() []Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.requests)
}

// Accepted returns how often each event was answered with 2xx, by its id.
func (e *Endpoint) Accepted() map[string]int {
	accepted := make(map[string]int)
	for _, r := range e.Requests() {
		if r.Status/100 == 2 {
			accepted[r.EventID]++
		}
	}
	return accepted
}

// ServeHTTP implements http.Handler.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodOptions {
		e.handshake(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // cut on the way
	}
	received, answer := e.receive(r, body)
	defer e.ended(received)
	if answer.After > 0 {
		select {
		case <-time.After(answer.After):
		case <-r.Context().Done():
			panic(http.ErrAbortHandler) // to return would be to answer 200
		}
	}
	if answer.Status == 0 {
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
	e.answered(received, answer.Status)
	if answer.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(answer.RetryAfter.Seconds())))
	}
	w.WriteHeader(answer.Status)
}

// receive notes a request, and returns which of the requests it is.
func (e *Endpoint) receive(r *http.Request, body []byte) (received []int, answer Answer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	request := Request{
		EventID: r.Header.Get(signature.HeaderID), Time: time.Now(), Body: body,
		Origin: r.Header.Get("WebHook-Request-Origin"), UserAgent: r.UserAgent(),
		Signed: signature.Verify([]signature.Secret{e.secret}, r.Header, body, time.Now(), 0),
	}
	all := []Request{request}
	if strings.HasPrefix(request.EventID, "batch_") {
		all = unpack(request)
	}
	for _, one := range all {
		received = append(received, len(e.requests))
		e.requests = append(e.requests, one)
		e.counts[one.EventID]++
	}
	return received, e.behaviour(e.counts[all[0].EventID])
}

// unpack returns the events of a batch. Of one that cannot be read it returns
// itself, which is signed wrongly then.
func unpack(request Request) (all []Request) {
	var events []struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(request.Body, &events); err != nil || len(events) == 0 {
		request.Signed = errors.Join(request.Signed, fmt.Errorf("reading a batch of %d events: %w", len(events), err))
		return []Request{request}
	}
	for _, event := range events {
		one := request
		one.EventID, one.Batch = event.ID, request.EventID
		all = append(all, one)
	}
	return all
}

func (e *Endpoint) ended(received []int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, index := range received {
		if e.requests[index].End.IsZero() {
			e.requests[index].End = time.Now()
		}
	}
}

func (e *Endpoint) answered(received []int, status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, index := range received {
		e.requests[index].Status, e.requests[index].End = status, time.Now()
	}
}
