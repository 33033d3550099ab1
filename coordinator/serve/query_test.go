package serve

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Every route of the gateway is known, so that none takes whatever it is given:
// a request to each is refused for a parameter that none has.
func TestRoutesAreKnown(t *testing.T) {
	conn, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	handler, err := HTTP(t.Context(), HTTPConfig{API: conn})
	if err != nil {
		t.Fatal(err)
	}
	routes := newRoutes()
	if len(routes) < 20 {
		t.Fatalf("there are %d routes only", len(routes))
	}
	for key := range routes {
		verb, template, _ := strings.Cut(key, " ")
		path := regexp.MustCompile(`\{[^=}]+=([^}]*)\}`).ReplaceAllString(template, "$1")
		path = regexp.MustCompile(`\{[^}]+\}|\*`).ReplaceAllString(path, "x")
		request := httptest.NewRequestWithContext(t.Context(), verb, path+"?no.such=1", nil)
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		if body := answer.Body.String(); answer.Code != http.StatusBadRequest || !strings.Contains(body, "no.such is no parameter") {
			t.Errorf("%s as %s: %d %s", key, path, answer.Code, body)
		}
	}
	var pattern runtime.Pattern
	if err := routes.check(http.MethodGet, pattern.String(), nil); err == nil {
		t.Error("a route that is not known is served")
	}
}
