package access

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// ParseTokens reads a file of tokens.
func ParseTokens(text []byte) (any, error) { return parseTokens(text) }

// Find returns whose token it is.
func (t *Tokens) Find(token string, now time.Time) (Caller, bool) { return t.find(token, now) }

// CheckRule returns an error unless a method has a rule that fits its request.
func CheckRule(method string) error {
	r, err := ruleOf(method)
	if err != nil {
		return err
	}
	if r.who != inTenant {
		return nil
	}
	full := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(full)
	if err != nil {
		return err
	}
	input := found.(protoreflect.MethodDescriptor).Input()
	for field := range strings.SplitSeq(r.tenant, ".") {
		descriptor := input.Fields().ByName(protoreflect.Name(field))
		if descriptor == nil {
			return fmt.Errorf("the rule of %s looks for the tenant in %s, which its request has not", method, r.tenant)
		}
		input = descriptor.Message()
	}
	return nil
}
