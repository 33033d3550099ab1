package serve_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/fanfare-dev/fanfare/coordinator/serve"
	"github.com/fanfare-dev/fanfare/internal/cluster"
	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

const base = "/v1/" + tenant

func TestCloudEventsOverHTTP(t *testing.T) {
	inWorld(t, func(w *world) {
		// The same events, binary, structured and in a batch.
		for _, tt := range []struct {
			name    string
			body    string
			headers []string
			want    string // of results
		}{
			{"curl's own content type", `{"a":1}`, []string{"ce-type", "order.created", "ce-id", "e1", "content-type", "application/x-www-form-urlencoded"}, `[{"id":"e1","duplicate":false}]`},
			{"again", `{"a":1}`, []string{"ce-type", "order.created", "ce-id", "e1"}, `[{"id":"e1","duplicate":true}]`},
			{"structured", `{"specversion":"1.0","id":"e2","type":"a","source":"/s","data":[1]}`, []string{"content-type", "application/cloudevents+json"}, `[{"id":"e2","duplicate":false}]`},
			{
				"a batch", `[{"id":"e3","type":"a"},{"id":"e2","type":"a"},{"id":"e3","type":"a"}]`,
				[]string{"content-type", "application/cloudevents-batch+json; charset=utf-8"},
				`[{"id":"e3","duplicate":false},{"id":"e2","duplicate":true},{"id":"e3","duplicate":true}]`,
			},
			{"text", "hello", []string{"ce-type", "a", "ce-id", "e4", "content-type", "text/plain"}, `[{"id":"e4","duplicate":false}]`},
			{"whatever is accepted", `1`, []string{"ce-type", "a", "ce-id", "e5", "accept", "text/html"}, `[{"id":"e5","duplicate":false}]`},
		} {
			got := w.do(http.MethodPost, base+"/events", tt.body, tt.headers...)
			if got.code != http.StatusAccepted || got.header.Get("Content-Type") != "application/json" {
				w.Errorf("%s: %d %s %s", tt.name, got.code, got.header.Get("Content-Type"), got.body)
				continue
			}
			var want any
			if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
				w.Fatal(err)
			}
			if diff := cmp.Diff(map[string]any{"results": want}, got.object(w)); diff != "" {
				w.Errorf("%s (-want +got):\n%s", tt.name, diff)
			}
		}
		made := w.do(http.MethodPost, base+"/events", "", "ce-type", "a").list(w, "results")[0]
		if id, _ := made["id"].(string); !strings.HasPrefix(id, "evt_") || made["duplicate"] != false {
			w.Errorf("the result of an event without an id is %v", made)
		}
		w.checkPublished()
	})
}

func (w *world) checkPublished() {
	w.Helper()
	for _, tt := range []struct{ id, contentType, source, data string }{
		{"e1", "application/json", "/" + tenant, `{"a":1}`},
		{"e2", "application/json", "/s", `[1]`},
		{"e4", "text/plain", "/" + tenant, `hello`},
	} {
		event := must[*fanfarev1.Event](w)(w.events.GetEvent(w.Context(), &fanfarev1.GetEventRequest{Name: tenant + "/events/" + tt.id}))
		if event.GetDataContentType() != tt.contentType || event.GetSource() != tt.source || string(event.GetData()) != tt.data {
			w.Errorf("event %s is %v", tt.id, event)
		}
	}
}

func TestCloudEventsOverHTTPErrors(t *testing.T) {
	inWorld(t, func(w *world) {
		structured := []string{"content-type", "application/cloudevents+json"}
		for _, tt := range []struct {
			name    string
			path    string
			body    string
			headers []string
			code    int
			field   string
		}{
			{"no event", base, `{}`, []string{"content-type", "application/json"}, 400, "ce-type"},
			{"a header that cannot be decoded", base, `{}`, []string{"ce-type", "a", "ce-subject", "%"}, 400, "ce-subject"},
			{"a member that cannot be decoded", base, `{"type":"a","time":"now"}`, structured, 400, "body.time"},
			{"an unknown format", base, ``, []string{"content-type", "application/cloudevents+protobuf"}, 400, "content-type"},
			{"a content type that is none", base, `{}`, []string{"ce-type", "a", "content-type", "json"}, 400, "events[0].data_content_type"},
			{"a type that is none", base, `{}`, []string{"ce-type", "a b"}, 400, "events[0].type"},
			{"an extension that is none", base, `{}`, []string{"ce-type", "a", "ce-foo-bar", "x"}, 400, "events[0].extensions"},
			{"data that is not what it should be", base, `a=b`, []string{"ce-type", "a"}, 400, "events[0].data"},
			{"one wrong event of three", base, `[{"type":"a"},{"type":"a"},{"type":""}]`, []string{"content-type", "application/cloudevents-batch+json"}, 400, "events[2].type"},
			{"an empty batch", base, `[]`, []string{"content-type", "application/cloudevents-batch+json"}, 400, "events"},
			{"an event that is too long", base, strings.Repeat("x", serve.MaxEventBytes+1), []string{"ce-type", "a", "content-type", "a/b"}, 400, "events[0].data"},
			{"a body that is too long", base, strings.Repeat("x", 2*serve.MaxRequestBytes+1), []string{"ce-type", "a", "content-type", "a/b"}, 400, "body"},
			{"a tenant there is not", "/v1/tenants/nobody", `{}`, []string{"ce-type", "a"}, 404, ""},
			{"a tenant that cannot be", "/v1/tenants/No-body", `{}`, []string{"ce-type", "a"}, 400, "parent"},
			{"a tenant with a slash", "/v1/tenants/a%2Fb", `{}`, []string{"ce-type", "a"}, 400, "parent"},
		} {
			w.refusedHTTP(tt.name, w.do(http.MethodPost, tt.path+"/events", tt.body, tt.headers...), tt.code, tt.field)
		}
		if listed := w.do(http.MethodGet, base+"/events", "").list(w, "events"); len(listed) > 0 {
			w.Errorf("stored all the same: %v", listed)
		}
		w.logs.RefuseForSpace(true)
		w.refusedHTTP("no space", w.do(http.MethodPost, base+"/events", `{}`, "ce-type", "a"), 429, "")
	})
}

// The gateway shows the services in JSON: names in camelCase, what is not set
// as well, times and durations as text, bytes in base64.
func TestRESTSubscriptions(t *testing.T) {
	inWorld(t, func(w *world) {
		now := time.Now().UTC().Format(time.RFC3339Nano)
		created := w.do(http.MethodPost, base+"/subscriptions",
			`{"url":"https://example.com/hook","eventTypes":["order.*"],"retrySchedule":["1s","0.5s"],"timeout":"2s"}`)
		if created.code != http.StatusOK || created.header.Get("Content-Type") != "application/json" {
			w.Fatalf("create: %d %s", created.code, created.body)
		}
		got := created.object(w)
		name, _ := got["name"].(string)
		secret, _ := got["secret"].(string)
		if !strings.HasPrefix(name, tenant+"/subscriptions/sub_") || !strings.HasPrefix(secret, "whsec_") {
			w.Errorf("created %s", created.body)
		}
		want := map[string]any{
			"name": name, "url": "https://example.com/hook", "eventTypes": []any{"order.*"}, "description": "", "payloadMode": "standard",
			"retrySchedule": []any{"1s", "0.500s"}, "timeout": "2s", "createTime": now, "updateTime": now, "etag": got["etag"],
			"health": map[string]any{"outstandingCount": "0", "behind": false, "consecutiveFailures": "0"},
		}
		shown := w.do(http.MethodGet, "/v1/"+name, "").object(w)
		if diff := cmp.Diff(want, subset(shown, want)); diff != "" || shown["secret"] != nil {
			w.Errorf("get (-want +got), secret %v:\n%s", shown["secret"], diff)
		}
		listed := w.do(http.MethodGet, base+"/subscriptions?pageSize=1", "").object(w)
		if diff := cmp.Diff(map[string]any{"subscriptions": []any{shown}, "nextPageToken": ""}, listed); diff != "" {
			w.Errorf("list (-want +got):\n%s", diff)
		}
		if got := w.do(http.MethodGet, "/v1/"+name+"/secret", "").object(w); got["secret"] != secret || got["name"] != name+"/secret" {
			w.Errorf("secret is %v", got)
		}
		w.patchSubscription(name, shown)
		w.deleteSubscription(name)
	})
}

// subset leaves of an object what the other has as well, all the way down.
func subset(object, like map[string]any) map[string]any {
	kept := make(map[string]any)
	for key, value := range object {
		other, has := like[key]
		if !has {
			continue
		}
		kept[key] = value
		inner, isObject := value.(map[string]any)
		if likeInner, ok := other.(map[string]any); isObject && ok {
			kept[key] = subset(inner, likeInner)
		}
	}
	return kept
}

// patchSubscription changes what is in the body, and nothing else; what Get
// answered may be sent back as it is.
func (w *world) patchSubscription(name string, shown map[string]any) {
	w.Helper()
	path := "/v1/" + name
	for _, tt := range []struct {
		query, body string
		field       string
		want        any
	}{
		{"", `{"description":"new"}`, "description", "new"},
		{"", `{"description":""}`, "description", ""},
		{"", `{"eventTypes":[]}`, "eventTypes", []any{}},
		{"", `{"timeout":null}`, "timeout", nil},
		{"?updateMask=description", `{"description":"masked","url":"https://example.com/other"}`, "url", "https://example.com/hook"},
	} {
		patched := w.do(http.MethodPatch, path+tt.query, tt.body)
		if patched.code != http.StatusOK {
			w.Errorf("patch with %s: %d %s", tt.body, patched.code, patched.body)
			continue
		}
		object := patched.object(w)
		if diff := cmp.Diff(tt.want, object[tt.field]); diff != "" || object["secret"] != nil || object["url"] != shown["url"] {
			w.Errorf("patch with %s: %s", tt.body, patched.body)
		}
	}
	whole := w.do(http.MethodGet, path, "")
	object := whole.object(w)
	object["description"] = "read, changed and written"
	body, err := json.Marshal(object)
	if err != nil {
		w.Fatal(err)
	}
	if patched := w.do(http.MethodPatch, path, string(body)); patched.code != http.StatusOK || patched.object(w)["description"] != object["description"] {
		w.Errorf("patch with what get answered: %d %s", patched.code, patched.body)
	}
	w.refusedHTTP("patch with an old etag", w.do(http.MethodPatch, path, string(body)), 409, "etag")
	w.refusedHTTP("patch with a wrong value", w.do(http.MethodPatch, path, `{"url":"http://example.com"}`), 400, "subscription.url")
	w.refusedHTTP("patch of none", w.do(http.MethodPatch, base+"/subscriptions/none", `{"description":"x"}`), 404, "")
}

func (w *world) deleteSubscription(name string) {
	w.Helper()
	w.refusedHTTP("delete with an old etag", w.do(http.MethodDelete, "/v1/"+name+"?etag=x", ""), 409, "etag")
	if deleted := w.do(http.MethodDelete, "/v1/"+name, ""); deleted.code != http.StatusOK || len(deleted.object(w)) != 0 {
		w.Errorf("delete: %d %s", deleted.code, deleted.body)
	}
	w.refusedHTTP("delete again", w.do(http.MethodDelete, "/v1/"+name, ""), 404, "")
	w.refusedHTTP("get what was deleted", w.do(http.MethodGet, "/v1/"+name, ""), 404, "")
	w.refusedHTTP("its secret", w.do(http.MethodGet, "/v1/"+name+"/secret", ""), 404, "")
}

// What cannot be read is 400, and says what it is.
func TestRESTErrors(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, tt := range []struct {
			name, method, path, body string
			code                     int
			field                    string
			says                     string
		}{
			{"an unknown field", "POST", base + "/subscriptions", `{"url":"https://example.com","colour":"red"}`, 400, "", `unknown field "colour"`},
			{"an unknown field of an event", "POST", base + "/events:publish", `{"events":[{"type":"a","kind":"b"}]}`, 400, "", `unknown field "kind"`},
			{"no JSON", "POST", base + "/subscriptions", `url=https://example.com`, 400, "", "invalid character 'u'"},
			{"a value of another kind", "POST", base + "/subscriptions", `{"url":1}`, 400, "", "url"},
			{"a duration that is none", "POST", base + "/subscriptions", `{"url":"https://example.com","timeout":"soon"}`, 400, "", "timeout: invalid google.protobuf.Duration value \"soon\""},
			{"a duration in a list that is none", "POST", base + "/subscriptions", "{\"description\": \"ü\",\n\t\"retrySchedule\" : [\"1s\", \"1x\"]}", 400, "", "retrySchedule[1]: invalid"},
			{"a field there is not", "POST", base + "/subscriptions", `{"url":"https://example.com","eventtypes":["a"]}`, 400, "", "eventtypes: unknown field \"eventtypes\""},
			{"a field of a field there is not", "POST", base + "/events:publish", `{"events":[{"type":"a"},{"typ":"a"}]}`, 400, "", "events[1].typ: unknown field"},
			{"a number for a text", "POST", base + "/subscriptions", `{"url":7}`, 400, "", "url: invalid value for string"},
			{"a list for an object", "POST", base + "/subscriptions", `[]`, 400, "", "body: "},
			{"a body that is no JSON", "POST", base + "/subscriptions", `{"url":`, 400, "", "body is not JSON"},
			{"a wrong value", "POST", base + "/subscriptions", `{"url":"https://example.com","eventTypes":["a","b*"]}`, 400, "subscription.event_types[1]", "*"},
			{"a body that is too long", "POST", base + "/events:publish", `{"events":[{"type":"` + strings.Repeat("a", 2*serve.MaxRequestBytes) + `"}]}`, 400, "", "too large"},
			{"a number that is none", "GET", base + "/events?pageSize=ten", "", 400, "", "ten"},
			{"a size that is negative", "GET", base + "/events?pageSize=-1", "", 400, "page_size", "-1"},
			{"a time that is none", "GET", base + "/events?startTime=today", "", 400, "", "today"},
			{"a token that is none", "GET", base + "/events?pageToken=x", "", 400, "page_token", "token"},
			{"a class of statuses there is not", "GET", base + "/deliveries?statusClass=6xx", "", 400, "status_class", "6xx"},
			{"a trace that is none", "GET", base + "/deliveries?traceId=abc", "", 400, "trace_id", "abc"},
			{"a trace of events that is none", "GET", base + "/events?traceId=abc", "", 400, "trace_id", "abc"},
			{"a step of seconds", "GET", base + "/subscriptions/s/statistics?step=90s", "", 400, "step", "1m30s"},
			{"too many steps", "GET", base + "/subscriptions/s/statistics?step=60s&startTime=2000-01-01T00:00:00Z&endTime=2000-01-03T00:00:00Z", "", 400, "step", "1500"},
			{"a time that is empty", "GET", base + "/subscriptions/s/statistics?startTime=2000-01-02T00:00:00Z&endTime=2000-01-01T00:00:00Z", "", 400, "start_time", "end_time"},
			{"a state there is not", "GET", base + "/deliveries?state=lost", "", 400, "", "LOST"},
			{"an unknown parameter", "GET", base + "/deliveries?status=dead", "", 400, "status", "takes pageSize, pageToken, subscription, event, state"},
			{"a parameter of another method", "GET", base + "/events?pageSize=1&state=DEAD", "", 400, "state", "takes pageSize"},
			{"a parameter that is in the path", "GET", base + "/events?parent=tenants/acme", "", 400, "parent", "no parameter"},
			{"a parameter of one that takes none", "GET", "/v1/cluster?x=1", "", 400, "x", "takes none"},
			{"a parameter where there is a body", "POST", base + "/events:publish?type=a", `{"events":[{"type":"a"}]}`, 400, "type", "takes none"},
			{"a parameter that is the body's", "POST", base + "/subscriptions?subscription.url=x", "{}", 400, "subscription.url", "no parameter"},
			{"a parameter of a parameter", "GET", base + "/events?startTime.seconds.x=1", "", 400, "startTime.seconds.x", "no parameter"},
			{"a parameter of CloudEvents", "POST", base + "/events?type=a", `{}`, 400, "type", "takes none"},
			{"an unknown parameter of a watch", "GET", base + "/deliveries:watch?subscriptions=x", "", 400, "subscriptions", "takes subscription"},
			{"a tenant there is not", "GET", "/v1/tenants/nobody/events", "", 404, "", "nobody"},
			{"a tenant again", "POST", "/v1/tenants?tenantId=default", "{}", 409, "tenant_id", "default"},
			{"a tenant that stays", "DELETE", base, "", 400, "name", "stays"},
			{"a path there is not", "GET", "/v1/nothing", "", 404, "", "Not Found"},
			{"a method there is not", "PUT", base + "/events", "", 405, "", "Method Not Allowed"},
		} {
			got := w.do(tt.method, tt.path, tt.body)
			w.refusedHTTP(tt.name, got, tt.code, tt.field)
			if message, _ := got.object(w)["message"].(string); !strings.Contains(message, tt.says) {
				w.Errorf("%s: says %q, not %q", tt.name, message, tt.says)
			}
		}
	})
}

func TestRESTEvents(t *testing.T) {
	inWorld(t, func(w *world) {
		now := time.Now().UTC().Format(time.RFC3339Nano)
		published := w.do(http.MethodPost, base+"/events:publish", `{"events":[{"id":"e:1 %?#&","type":"order.created","data":"eyJhIjoxfQ==","orderingKey":"k"}]}`)
		w.refusedHTTP("an id with a space", published, 400, "events[0].id")
		published = w.do(http.MethodPost, base+"/events:publish", `{"events":[{"id":"e:1%?#&","type":"order.created","data":"eyJhIjoxfQ==","orderingKey":"k"}]}`)
		if diff := cmp.Diff(map[string]any{"results": []any{map[string]any{"id": "e:1%?#&", "duplicate": false}}}, published.object(w)); diff != "" {
			w.Errorf("publish (-want +got):\n%s", diff)
		}
		want := map[string]any{
			"name": tenant + "/events/e:1%?#&", "id": "e:1%?#&", "type": "order.created", "source": "/" + tenant, "subject": "", "time": now,
			"dataContentType": "application/json", "data": "eyJhIjoxfQ==", "dataSchema": "", "orderingKey": "k", "extensions": map[string]any{}, "publishTime": now, "dataExpired": false,
		}
		got := w.do(http.MethodGet, base+"/events/"+url.PathEscape("e:1%?#&"), "")
		if diff := cmp.Diff(want, got.object(w)); diff != "" {
			w.Errorf("get (-want +got):\n%s", diff)
		}
		want["data"] = ""
		listed := w.do(http.MethodGet, base+"/events?type=order.created&startTime="+now+"&page_size=10", "").object(w)
		if diff := cmp.Diff(map[string]any{"events": []any{want}, "nextPageToken": ""}, listed); diff != "" {
			w.Errorf("list (-want +got):\n%s", diff)
		}
		if none := w.do(http.MethodGet, base+"/events?type=other", "").list(w, "events"); len(none) > 0 {
			w.Errorf("events of another type: %v", none)
		}
	})
}

// All filters of deliveries work in the query; a state may be written in lower
// case.
func TestRESTDeliveries(t *testing.T) {
	inWorld(t, func(w *world) {
		start := time.Now().UTC()
		sub, events := w.deliverAll()
		last := func(name string) string { return name[strings.LastIndex(name, "/")+1:] }
		for query, want := range map[string]int{
			"":                                    5,
			"state=DELIVERED":                     1,
			"state=delivered":                     1,
			"state=Dead":                          1,
			"state=2":                             1,
			"state=expired":                       0,
			"pageSize=1":                          1,
			"subscription=" + last(sub.GetName()): 4,
			"subscription=" + sub.GetName():       4,
			"event=" + last(events[fanfarev1.Delivery_CANCELLED]):                                                2,
			"startTime=" + start.Add(3*time.Second).Format(time.RFC3339):                                         3,
			"endTime=" + start.Add(3*time.Second).Format(time.RFC3339):                                           2,
			"state=dead&subscription=" + last(sub.GetName()) + "&event=" + last(events[fanfarev1.Delivery_DEAD]): 1,
			"state=pending&event=" + last(events[fanfarev1.Delivery_DEAD]):                                       0,
		} {
			got := w.do(http.MethodGet, base+"/deliveries?"+query, "")
			if deliveries := got.list(w, "deliveries"); len(deliveries) != want {
				w.Errorf("?%s: %d deliveries, want %d", query, len(deliveries), want)
			}
		}
		w.refusedHTTP("two states", w.do(http.MethodGet, base+"/deliveries?state=dead&state=delivered", ""), 400, "")
		w.refusedHTTP("a query that is none", w.do(http.MethodGet, base+"/deliveries?state=dead&x=%zz", ""), 400, "")

		// Pages follow one another with the filter in lower case, too.
		page := w.do(http.MethodGet, base+"/deliveries?state=pending&pageSize=1", "").object(w)
		token, _ := page["nextPageToken"].(string)
		next := w.do(http.MethodGet, base+"/deliveries?state=pending&pageSize=1&pageToken="+token, "")
		if token == "" || next.object(w)["nextPageToken"] != "" || len(next.list(w, "deliveries")) != 1 {
			w.Errorf("the page after %v is %s", page, next.body)
		}
		w.checkDeliveryJSON(sub, events[fanfarev1.Delivery_DELIVERED])
	})
}

func (w *world) checkDeliveryJSON(sub *fanfarev1.Subscription, event string) {
	w.Helper()
	listed := w.do(http.MethodGet, base+"/deliveries?state=delivered", "").list(w, "deliveries")[0]
	got := w.do(http.MethodGet, fmt.Sprint("/v1/", listed["name"]), "").object(w)
	want := map[string]any{
		"name": listed["name"], "event": event, "eventType": "a.delivered", "subscription": sub.GetName(), "state": "DELIVERED",
		"attemptCount": 1.0, "createTime": listed["createTime"], "endTime": listed["endTime"],
		"lastStatusCode": 204.0, "lastErrorClass": "", "traceId": "",
	}
	if diff := cmp.Diff(want, subset(got, want)); diff != "" {
		w.Errorf("get (-want +got):\n%s", diff)
	}
	attempt := w.do(http.MethodGet, fmt.Sprint("/v1/", listed["name"], "/attempts"), "").list(w, "attempts")[0]
	want = map[string]any{
		"name": fmt.Sprint(listed["name"], "/attempts/1"), "number": 1.0, "result": "DELIVERED", "latency": "0.001500s", "statusCode": 204.0,
		"errorClass": "", "error": "", "responseBody": "thanks", "worker": "worker-1",
	}
	if diff := cmp.Diff(want, subset(attempt, want)); diff != "" {
		w.Errorf("attempt (-want +got):\n%s", diff)
	}
}

// Watching works over HTTP as well: one JSON object a line.
func TestRESTWatch(t *testing.T) {
	inWorld(t, func(w *world) {
		w.subscribe(tenant)
		ctx, stop := context.WithCancel(w.Context())
		defer stop()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://world"+base+"/deliveries:watch", http.NoBody)
		if err != nil {
			w.Fatal(err)
		}
		lines := make(chan string, 1)
		go func() {
			defer close(lines)
			response, err := w.client.Do(request)
			if err != nil {
				return
			}
			defer response.Body.Close()
			if scanner := bufio.NewScanner(response.Body); scanner.Scan() {
				lines <- scanner.Text()
			}
		}()
		var line string
		for line == "" { // until it watches
			w.publish(tenant, "a")
			select {
			case line = <-lines:
			case <-time.After(time.Second):
			}
		}
		var change struct {
			Result struct {
				Delivery struct{ State, EventType string }
			}
		}
		if err := json.Unmarshal([]byte(line), &change); err != nil || change.Result.Delivery.State != "PENDING" || change.Result.Delivery.EventType != "a" {
			w.Errorf("the first line is %s (%v)", line, err)
		}
		stop()
		<-lines
	})
}

func TestOperatorsPages(t *testing.T) {
	inWorld(t, func(w *world) {
		for path, want := range map[string]string{"/healthz": `{"status":"ok"}`, "/readyz": `{"status":"ok"}`} {
			got := w.do(http.MethodGet, path, "")
			if got.code != http.StatusOK || got.header.Get("Content-Type") != "application/json" || strings.TrimSpace(string(got.body)) != want {
				w.Errorf("%s: %d %s", path, got.code, got.body)
			}
		}
		if got := w.do(http.MethodPost, "/healthz", ""); got.code != http.StatusMethodNotAllowed {
			w.Errorf("POST /healthz: %d", got.code)
		}
		document := w.do(http.MethodGet, "/openapi.json", "")
		paths, _ := document.object(w)["paths"].(map[string]any)
		if document.code != http.StatusOK || document.header.Get("Content-Type") != "application/json" || len(paths) == 0 {
			w.Errorf("/openapi.json: %d with %d paths", document.code, len(paths))
		}
		if n := len(w.do(http.MethodGet, "/v1/cluster", "").list(w, "partitions")); n != partitions {
			w.Errorf("/v1/cluster has %d partitions, want %d", n, partitions)
		}
	})
}

// A process is ready when it leads its partitions, and says what is wrong when
// it does not; it is healthy all the same.
func TestNotReady(t *testing.T) {
	inWorld(t, func(w *world) {
		w.members.Break(cluster.Refuse)
		<-time.After(time.Minute) // its lease has ended, which it cannot know
		if got := w.do(http.MethodGet, "/readyz", ""); got.code != http.StatusOK {
			w.Errorf("/readyz of one that serves on: %d %s", got.code, got.body)
		}
		w.logs.CutOff(true)
		w.members.Heal()
		<-time.After(time.Minute) // it knows, and cannot lead again
		got := w.do(http.MethodGet, "/readyz", "")
		if problem, _ := got.object(w)["problem"].(string); got.code != http.StatusServiceUnavailable || got.object(w)["status"] != "unavailable" || problem == "" {
			w.Errorf("/readyz: %d %s", got.code, got.body)
		}
		if got := w.do(http.MethodGet, "/healthz", ""); got.code != http.StatusOK {
			w.Errorf("/healthz: %d %s", got.code, got.body)
		}
		w.refusedHTTP("publish", w.do(http.MethodPost, base+"/events", `{}`, "ce-type", "a"), 503, "")
		w.logs.CutOff(false)
		<-time.After(time.Minute)
		if got := w.do(http.MethodGet, "/readyz", ""); got.code != http.StatusOK {
			w.Errorf("/readyz after all is well: %d %s", got.code, got.body)
		}
	})
}

// What is served at /metrics is what Prometheus reads, and has what happened.
func TestMetrics(t *testing.T) {
	inWorld(t, func(w *world) {
		w.deliverAll()
		synctest.Wait() // what happened is counted after it was answered
		got := w.do(http.MethodGet, "/metrics", "")
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(string(got.body)))
		if err != nil || got.code != http.StatusOK {
			w.Fatalf("%d, %v", got.code, err)
		}
		sums := make(map[string]float64)
		for name, family := range families {
			for _, metric := range family.GetMetric() {
				var key strings.Builder
				key.WriteString(name)
				for _, label := range metric.GetLabel() {
					if l := label.GetName(); l == "fanfare_delivery_state" || l == "error_type" {
						key.WriteString("/" + label.GetValue())
					}
				}
				sums[key.String()] += metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			}
		}
		for key, want := range map[string]float64{
			"fanfare_events_published_total":     4,
			"fanfare_deliveries_total/PENDING":   5,
			"fanfare_deliveries_total/DELIVERED": 1,
			"fanfare_deliveries_total/DEAD":      1,
			"fanfare_deliveries_total/CANCELLED": 1,
			"fanfare_attempts_total/":            1,
			"fanfare_attempts_total/status":      1,
			"fanfare_attempts_total/timeout":     1,
		} {
			if sums[key] != want {
				w.Errorf("%s is %v, want %v", key, sums[key], want)
			}
		}
		if sums["fanfare_log_block_size_bytes"] < 7 {
			w.Errorf("%v blocks were measured", sums["fanfare_log_block_size_bytes"])
		}
	})
}

// What a process says of itself is 200 as long as it serves, and names what is
// wrong. One that measures nothing has no /metrics.
func TestHealthOfAProcess(t *testing.T) {
	conn, err := grpc.NewClient("passthrough:///nobody", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, tt := range []struct {
		ready serve.Readiness
		code  int
		body  string
	}{
		{serve.Readiness{Serves: true}, 200, `{"status":"ok"}`},
		{serve.Readiness{Serves: true, Problems: []string{"one", "two"}}, 200, `{"status":"degraded","problem":"one; two"}`},
		{serve.Readiness{Problems: []string{"not yet"}}, 503, `{"status":"unavailable","problem":"not yet"}`},
	} {
		handler, err := serve.HTTP(t.Context(), serve.HTTPConfig{API: conn, Ready: func(context.Context) serve.Readiness { return tt.ready }})
		if err != nil {
			t.Fatal(err)
		}
		get := func(path string) *httptest.ResponseRecorder {
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
			return recorder
		}
		if got := get("/readyz"); got.Code != tt.code || strings.TrimSpace(got.Body.String()) != tt.body {
			t.Errorf("/readyz of %+v: %d %s, want %d %s", tt.ready, got.Code, got.Body, tt.code, tt.body)
		}
		for path, want := range map[string]int{"/healthz": 200, "/metrics": 404, "/": 404} {
			if got := get(path); got.Code != want {
				t.Errorf("%s: %d, want %d", path, got.Code, want)
			}
		}
	}
}
