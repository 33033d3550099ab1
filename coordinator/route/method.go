package route

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// method is what the router knows of a method whose calls are about a
// partition.
type method struct {
	key       []protoreflect.FieldDescriptor // path to what says which partition
	safe      bool                           // may be called twice
	publishes bool
	request   protoreflect.MessageType
	response  protoreflect.MessageType
	streamsIn bool // the client sends more than one message
}

// methods returns all methods of Fanfare's services that are about a
// partition, by their full names ("/package.Service/Method").
func methods() map[string]*method {
	all := make(map[string]*method)
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "fanfare.") {
			return true
		}
		services := file.Services()
		for i := range services.Len() {
			list := services.Get(i).Methods()
			for j := range list.Len() {
				if m := newMethod(list.Get(j)); m != nil {
					all["/"+string(services.Get(i).FullName())+"/"+string(list.Get(j).Name())] = m
				}
			}
		}
		return true
	})
	return all
}

// newMethod returns nil for a method that is not about a partition.
func newMethod(d protoreflect.MethodDescriptor) *method {
	key := keyOf(d.Input())
	request, errIn := protoregistry.GlobalTypes.FindMessageByName(d.Input().FullName())
	response, errOut := protoregistry.GlobalTypes.FindMessageByName(d.Output().FullName())
	if key == nil || errIn != nil || errOut != nil {
		return nil
	}
	publishes := d.Input().FullName() == (*fanfarev1.PublishRequest)(nil).ProtoReflect().Descriptor().FullName()
	return &method{
		key: key, safe: publishes || reads(string(d.Name())), publishes: publishes,
		request: request, response: response, streamsIn: d.IsStreamingClient(),
	}
}

// reads reports whether a method of this name changes nothing, by the names
// that all of them have (AIP-131, AIP-132).
func reads(name string) bool {
	for _, verb := range []string{"Get", "List", "Describe", "Watch"} {
		if strings.HasPrefix(name, verb) {
			return true
		}
	}
	return false
}

// keyOf returns the path to the field that says which partition a request is
// about; nil if none does.
func keyOf(message protoreflect.MessageDescriptor) []protoreflect.FieldDescriptor {
	fields := message.Fields()
	for _, name := range []protoreflect.Name{"parent", "name", "tenant_id"} {
		if f := fields.ByName(name); f != nil && f.Kind() == protoreflect.StringKind && !f.IsList() {
			return []protoreflect.FieldDescriptor{f}
		}
	}
	if f := fields.ByName("partition"); f != nil && f.Kind() == protoreflect.Int32Kind && !f.IsList() {
		return []protoreflect.FieldDescriptor{f}
	}
	for i := range fields.Len() {
		outer := fields.Get(i)
		if outer.Kind() != protoreflect.MessageKind || outer.IsList() || outer.IsMap() {
			continue
		}
		if f := outer.Message().Fields().ByName("name"); f != nil && f.Kind() == protoreflect.StringKind && !f.IsList() {
			return []protoreflect.FieldDescriptor{outer, f}
		}
	}
	return nil
}

// about returns which partition a request is about. It is false if the request
// does not say so as it should; then the handler says what is wrong with it.
func (m *method) about(request proto.Message, config Config) (int, bool) {
	message := request.ProtoReflect()
	last := m.key[len(m.key)-1]
	for _, f := range m.key[:len(m.key)-1] {
		message = message.Get(f).Message()
	}
	value := message.Get(last)
	if last.Kind() == protoreflect.Int32Kind {
		partition := int(value.Int())
		return partition, partition >= 0 && partition < config.Partitions
	}
	tenant := value.String()
	if last.Name() != "tenant_id" {
		rest, found := strings.CutPrefix(tenant, "tenants/")
		if !found {
			return 0, false
		}
		tenant, _, _ = strings.Cut(rest, "/")
	}
	if tenant == "" {
		return 0, false
	}
	return config.PartitionOf(tenant), true
}
