package history

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	fanfarev1 "github.com/fanfare-dev/fanfare/proto/fanfare/v1"
)

// A field that is added to events must not be forgotten here.
func TestEncodeEventKeepsAllFields(t *testing.T) {
	event := &fanfarev1.Event{}
	message := event.ProtoReflect()
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		switch {
		case field.IsMap():
			message.Mutable(field).Map().Set(protoreflect.ValueOfString("a").MapKey(), protoreflect.ValueOfString("b"))
		case field.Kind() == protoreflect.StringKind:
			message.Set(field, protoreflect.ValueOfString(string(field.Name())))
		case field.Kind() == protoreflect.BytesKind:
			message.Set(field, protoreflect.ValueOfBytes([]byte("data")))
		case field.Kind() == protoreflect.BoolKind:
			message.Set(field, protoreflect.ValueOfBool(true))
		case field.Kind() == protoreflect.MessageKind:
			message.Set(field, protoreflect.ValueOfMessage((&timestamppb.Timestamp{Seconds: 1}).ProtoReflect()))
		default:
			t.Fatalf("field %s is of a kind that this test does not fill", field.Name())
		}
	}
	encoded, err := encodeEvent(event)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeEvent("acme", encoded)
	if err != nil {
		t.Fatal(err)
	}
	event.Name, event.Data = "tenants/acme/events/id", nil
	if diff := cmp.Diff(event, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
