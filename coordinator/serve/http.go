package serve

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/fanfare-dev/fanfare/internal/openapi"
	"github.com/fanfare-dev/fanfare/internal/tracing"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// HTTPConfig is what the HTTP side of the API needs.
type HTTPConfig struct {
	// API is a connection to the gRPC services that are to be shown.
	API *grpc.ClientConn
	// Ready says whether this process serves.
	Ready func(context.Context) Readiness
	// Metrics serves the metrics in the text format of Prometheus; nil: nobody
	// does.
	Metrics http.Handler
}

// HTTP returns everything that is served over HTTP: the services as REST and
// JSON, CloudEvents at POST /v1/tenants/{tenant}/events, health and metrics.
func HTTP(ctx context.Context, config HTTPConfig) (http.Handler, error) {
	known := newRoutes()
	var rest *runtime.ServeMux
	rest = runtime.NewServeMux(
		runtime.WithMiddlewares(func(next runtime.HandlerFunc) runtime.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
				pattern, _ := runtime.HTTPPattern(r.Context())
				if err := known.check(r.Method, pattern.String(), r.URL.Query()); err != nil {
					_, marshaler := runtime.MarshalerForRequest(rest, r)
					runtime.HTTPError(r.Context(), rest, marshaler, w, r, statusOf(err))
					return
				}
				next(w, r, path)
			}
		}),
		runtime.WithIncomingHeaderMatcher(incomingHeader),
		runtime.WithMarshalerOption(runtime.MIMEWildcard, namedJSON{&runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{EmitDefaultValues: true},
			UnmarshalOptions: protojson.UnmarshalOptions{},
		}}),
		runtime.WithRoutingErrorHandler(routingError),
	)
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		fanfarev1.RegisterEventServiceHandler,
		fanfarev1.RegisterSubscriptionServiceHandler,
		fanfarev1.RegisterDeliveryServiceHandler,
		fanfarev1.RegisterTenantServiceHandler,
		fanfarev1.RegisterClusterServiceHandler,
		fanfarev1.RegisterAlertServiceHandler,
	} {
		if err := register(ctx, rest, config.API); err != nil {
			return nil, fmt.Errorf("registering the REST gateway: %w", err)
		}
	}
	mux := http.NewServeMux()
	limited := http.MaxBytesHandler(rest, maxBodyBytes)
	mux.Handle("/v1/", limited)
	mux.Handle("GET /v1/tenants/{tenant}/deliveries", upperState(limited))
	mux.Handle("POST /v1/tenants/{tenant}/events", &cloudEvents{fanfarev1.NewEventServiceClient(config.API), rest})
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(openapi.Document()) // the client may have gone
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { reportHealth(w, Readiness{Serves: true}) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { reportHealth(w, config.Ready(r.Context())) })
	if config.Metrics != nil {
		mux.Handle("GET /metrics", config.Metrics)
	}
	return mux, nil
}

// routingError answers what no method is for. A path that is there with another
// HTTP method is 405: the gateway's own 501 says that it may come one day.
func routingError(ctx context.Context, rest *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	if code != http.StatusMethodNotAllowed {
		runtime.DefaultRoutingErrorHandler(ctx, rest, m, w, r, code)
		return
	}
	runtime.HTTPError(ctx, rest, m, w, r, &runtime.HTTPStatusError{
		HTTPStatus: code, Err: status.Error(codes.Unimplemented, http.StatusText(code)),
	})
}

// incomingHeader says which headers of a request are passed on to the services,
// and as which metadata: those that usually are, and the trace context.
func incomingHeader(name string) (string, bool) {
	switch lower := strings.ToLower(name); lower {
	case tracing.Parent, tracing.State:
		return lower, true
	}
	return runtime.DefaultHeaderMatcher(name)
}

// upperState lets the filter `state` be written in lower case as well.
func upperState(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if query, err := url.ParseQuery(r.URL.RawQuery); err == nil && query.Has("state") {
			for i, state := range query["state"] {
				query["state"][i] = strings.ToUpper(state)
			}
			r = r.Clone(r.Context())
			r.URL.RawQuery = query.Encode()
		}
		next.ServeHTTP(w, r)
	})
}

// reportHealth answers 200, or 503 if the process does not serve, and what is
// wrong in both cases.
func reportHealth(w http.ResponseWriter, ready Readiness) {
	answer := struct {
		Status  string `json:"status"`
		Problem string `json:"problem,omitempty"`
	}{"ok", strings.Join(ready.Problems, "; ")}
	code := http.StatusOK
	switch {
	case !ready.Serves:
		answer.Status, code = "unavailable", http.StatusServiceUnavailable
	case len(ready.Problems) > 0:
		answer.Status = "degraded"
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(answer) // the client may have gone
}

// cloudEvents takes events as CloudEvents over HTTP. Answers and errors are
// those of EventService.Publish in JSON, but for 202 in place of 200: the
// events are durable, and will be delivered.
type cloudEvents struct {
	events fanfarev1.EventServiceClient
	rest   *runtime.ServeMux
}

func (c *cloudEvents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, marshaler := runtime.MarshalerForRequest(c.rest, r)
	response, err := c.publish(r)
	if err != nil {
		runtime.HTTPError(r.Context(), c.rest, marshaler, w, r, err)
		return
	}
	body, err := marshaler.Marshal(response)
	if err != nil {
		runtime.HTTPError(r.Context(), c.rest, marshaler, w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write(body) // the client may have gone
}

func (c *cloudEvents) publish(r *http.Request) (*fanfarev1.PublishResponse, error) {
	if names := slices.Sorted(maps.Keys(r.URL.Query())); len(names) > 0 {
		return nil, statusOf(invalid(names[0], "is no parameter of this method, which takes none"))
	}
	events, err := decodeCloudEvents(r.Header, r.Body)
	if err != nil {
		return nil, statusOf(err)
	}
	ctx, err := runtime.AnnotateContext(r.Context(), c.rest, r, fanfarev1.EventService_Publish_FullMethodName)
	if err != nil {
		return nil, err
	}
	return c.events.Publish(ctx, &fanfarev1.PublishRequest{Parent: "tenants/" + r.PathValue("tenant"), Events: events})
}
