package serve

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// routes says which query parameters each route of the REST gateway takes. The
// gateway itself passes over those it does not know, so that a filter with a
// slip in its name would select everything.
type routes map[string]restRoute // :: by routeKey

// restRoute is what the query of a route may set: the request's fields, except
// those that its path or its body does.
type restRoute struct {
	request protoreflect.MessageDescriptor
	body    string   // the field it is; `*`: all that are not in the path
	path    []string // fields
}

// newRoutes reads the routes from the services' annotations (google.api.http).
func newRoutes() routes {
	found := make(routes)
	for _, file := range []protoreflect.FileDescriptor{
		fanfarev1.File_fanfare_v1_event_service_proto,
		fanfarev1.File_fanfare_v1_subscription_service_proto,
		fanfarev1.File_fanfare_v1_delivery_service_proto,
		fanfarev1.File_fanfare_v1_tenant_service_proto,
		fanfarev1.File_fanfare_v1_cluster_service_proto,
		fanfarev1.File_fanfare_v1_alert_service_proto,
	} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				found.add(methods.Get(j))
			}
		}
	}
	return found
}

func (r routes) add(method protoreflect.MethodDescriptor) {
	rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	if rule == nil {
		return
	}
	for _, binding := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
		verb, template := patternOf(binding)
		r[routeKey(verb, template)] = restRoute{method.Input(), binding.GetBody(), variables(template)}
	}
}

func patternOf(rule *annotations.HttpRule) (verb, template string) {
	switch {
	case rule.GetGet() != "":
		return http.MethodGet, rule.GetGet()
	case rule.GetPost() != "":
		return http.MethodPost, rule.GetPost()
	case rule.GetPatch() != "":
		return http.MethodPatch, rule.GetPatch()
	case rule.GetPut() != "":
		return http.MethodPut, rule.GetPut()
	case rule.GetDelete() != "":
		return http.MethodDelete, rule.GetDelete()
	}
	return rule.GetCustom().GetKind(), rule.GetCustom().GetPath()
}

// variable finds the fields in a path template, as in {name=tenants/*}.
var variable = regexp.MustCompile(`\{([^=}]+)`)

func variables(template string) (fields []string) {
	for _, match := range variable.FindAllStringSubmatch(template, -1) {
		fields = append(fields, match[1])
	}
	return fields
}

// routeKey names a route. {x} and {x=*} are the same.
func routeKey(verb, template string) string {
	return verb + " " + strings.ReplaceAll(template, "=*}", "}")
}

// check says which parameter of a query is none that the route takes.
func (r routes) check(verb, template string, query url.Values) error {
	route, known := r[routeKey(verb, template)]
	if !known {
		return fmt.Errorf("no method has the route %s %s", verb, template)
	}
	names := make([]string, 0, len(query))
	for name := range query {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if !route.takes(name) {
			return &Error{codes.InvalidArgument, name, "is no parameter of this method, which takes " + route.list()}
		}
	}
	return nil
}

// takes reports whether a name, such as page_size or pageSize, leads to a field
// that a query may set.
func (r restRoute) takes(name string) bool {
	if r.body == "*" {
		return false
	}
	message := r.request
	var path []string
	for part := range strings.SplitSeq(name, ".") {
		if message == nil {
			return false
		}
		field := message.Fields().ByName(protoreflect.Name(part))
		if field == nil {
			field = message.Fields().ByJSONName(part)
		}
		if field == nil {
			return false
		}
		message, path = field.Message(), append(path, string(field.Name()))
	}
	return path[0] != r.body && !slices.Contains(r.path, strings.Join(path, "."))
}

// list names what the route takes.
func (r restRoute) list() string {
	var names []string
	for i := range r.request.Fields().Len() {
		if name := r.request.Fields().Get(i).JSONName(); r.takes(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
