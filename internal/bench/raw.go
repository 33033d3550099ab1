package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/sync/errgroup"

	"github.com/fanfare-dev/fanfare/signature"
)

// Raw is what a closed loop of a plain HTTP client did.
type Raw struct {
	Client   string  `json:"client"`
	PerSec   float64 `json:"requests_per_second"`
	Requests int64   `json:"requests"`
	// CPU for each request, in µs, of the client and the receiver together.
	CPU float64 `json:"cpu_us_per_request"`
}

// rawLoop is a closed loop of signed POSTs of one body to one receiver: each
// connection sends the next when the one before was answered.
type rawLoop struct {
	url         string
	body        []byte
	signer      *signature.Signer
	connections int
	span        time.Duration
}

// post sends one signed request and reads the answer.
type post func(ctx context.Context, message signature.Message) error

// run measures one client.
func (l rawLoop) run(ctx context.Context, client string, do post) (Raw, error) {
	limited, cancel := context.WithTimeout(ctx, l.span)
	defer cancel()
	var count atomic.Int64
	group, limited := errgroup.WithContext(limited)
	before, err := usageOf(os.Getpid())
	if err != nil {
		return Raw{}, err
	}
	began := time.Now()
	for connection := range l.connections {
		group.Go(func() error {
			for n := 0; limited.Err() == nil; n++ {
				err := do(ctx, signature.Message{
					ID:        "raw_" + strconv.Itoa(connection) + "_" + strconv.Itoa(n),
					Timestamp: time.Now(),
					Body:      l.body,
				})
				if err != nil {
					return fmt.Errorf("measuring %s: %w", client, err)
				}
				count.Add(1)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return Raw{}, err
	}
	took := time.Since(began)
	after, err := usageOf(os.Getpid())
	if err != nil {
		return Raw{}, err
	}
	raw := Raw{Client: client, Requests: count.Load(), PerSec: float64(count.Load()) / took.Seconds()}
	if raw.Requests > 0 {
		raw.CPU = after.since(before).CPUSeconds * 1e6 / float64(raw.Requests)
	}
	return raw, ctx.Err()
}

// netHTTP measures the standard library's client.
func (l rawLoop) netHTTP(ctx context.Context) (Raw, error) {
	transport := &http.Transport{MaxIdleConns: l.connections, MaxIdleConnsPerHost: l.connections, DisableCompression: true}
	defer transport.CloseIdleConnections()
	return l.run(ctx, "net/http", func(ctx context.Context, message signature.Message) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, bytes.NewReader(l.body))
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", "application/json")
		l.signer.SetHeaders(request.Header, message)
		response, err := transport.RoundTrip(request)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		if closeErr := response.Body.Close(); err == nil {
			err = closeErr
		}
		return errUnlessOK(response.StatusCode, err)
	})
}

// fastHTTP measures github.com/valyala/fasthttp.
func (l rawLoop) fastHTTP(ctx context.Context) (Raw, error) {
	client := &fasthttp.Client{MaxConnsPerHost: l.connections, NoDefaultUserAgentHeader: true}
	defer client.CloseIdleConnections()
	return l.run(ctx, "fasthttp", func(_ context.Context, message signature.Message) error {
		request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
		defer fasthttp.ReleaseRequest(request)
		defer fasthttp.ReleaseResponse(response)
		request.SetRequestURI(l.url)
		request.Header.SetMethod(http.MethodPost)
		request.Header.SetContentType("application/json")
		request.Header.Set(signature.HeaderID, message.ID)
		request.Header.Set(signature.HeaderTimestamp, strconv.FormatInt(message.Timestamp.Unix(), 10))
		request.Header.SetBytesV(signature.HeaderSignature, l.signer.Append(nil, message))
		request.SetBodyRaw(l.body)
		err := client.Do(request, response)
		return errUnlessOK(response.StatusCode(), err)
	})
}

func errUnlessOK(status int, err error) error {
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("the receiver answered %d", status)
	}
	return err
}
