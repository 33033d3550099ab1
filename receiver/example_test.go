package receiver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/fanfare-dev/fanfare/receiver"
	"github.com/fanfare-dev/fanfare/signature"
)

// A receiver with a handler for each type of event.
func Example() {
	secret, err := signature.ParseSecret(os.Getenv("WEBHOOK_SECRET"))
	if err != nil {
		secret, _ = signature.ParseSecret(secretOne) // this example's
	}
	r, err := receiver.New(receiver.Config{
		Gate: receiver.Gate{Verifiers: []signature.Verifier{{Secrets: []signature.Secret{secret}}}},
	})
	if err != nil {
		panic(err)
	}
	r.Handle("order.created", func(_ context.Context, e *receiver.Event) error {
		var order struct{ Number int }
		if err := e.Decode(&order); err != nil {
			// No use in sending it again.
			return &receiver.Answer{Status: http.StatusUnprocessableEntity, Err: err}
		}
		fmt.Println("order", order.Number)
		return nil
	})
	r.HandleVersion("order.created", "2", func(context.Context, *receiver.Event) error {
		return errors.New("not yet") // 500: the sender tries again
	})
	server := httptest.NewServer(r)
	defer server.Close()

	deliver(server.URL, secret, `{"type":"order.created","data":{"number":7}}`)
	deliver(server.URL, secret, `{"type":"order.created","data":{"number":7}}`) // again
	deliver(server.URL, secret, `{"type":"order.deleted","data":{"number":7}}`)
	// Output:
	// order 7
	// 200
	// 200
	// 404
}

// deliver sends what a sender would.
func deliver(url string, secret signature.Secret, body string) {
	request := newRequest(url, secret, "msg_"+fmt.Sprint(len(body)), body)
	response, err := new(http.Transport).RoundTrip(request)
	if err != nil {
		fmt.Println(err) //nolint:forbidigo // an example's output
		return
	}
	fmt.Println(response.StatusCode) //nolint:forbidigo // an example's output
	_ = response.Body.Close()
}

// Gate alone, in front of a handler that is there already.
func ExampleGate_Middleware() {
	secret, _ := signature.ParseSecret(secretOne)
	gate := receiver.Gate{Verifiers: []signature.Verifier{{Secrets: []signature.Secret{secret}}}}
	handler := gate.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := receiver.Body(r.Context())
		fmt.Printf("%s\n", body)
	}))
	handler.ServeHTTP(httptest.NewRecorder(), newRequest("/", secret, "msg_1", `{"hello":"world"}`))
	// Output: {"hello":"world"}
}
