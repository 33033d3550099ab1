package request

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// xmlSpace is what is trimmed off texts.
const xmlSpace = "\t\r\b\n "

// textKey is the key of an element's text beside attributes and children.
const textKey = "#text"

// attributePrefix stands before the names of attributes.
const attributePrefix = "-"

var errDepth = fmt.Errorf("elements are more than %d deep", MaxXMLDepth)

// element is one that has begun and not ended.
type element struct {
	name string
	// parts are attributes and children, and text behind any of them.
	parts map[string]any
	// text came before there were parts; of several the last.
	text string
}

// value is what a parser's user sees of the element: its text if that is all,
// else a map.
func (e *element) value() any {
	if len(e.parts) == 0 {
		return e.text
	}
	if e.text != "" {
		e.parts[textKey] = e.text
	}
	return e.parts
}

// add appends a child. A second one of a name makes a list of them.
func (e *element) add(name string, child any) {
	switch before := e.parts[name].(type) {
	case nil:
		e.parts[name] = child
	case []any:
		e.parts[name] = append(before, child)
	default:
		e.parts[name] = []any{before, child}
	}
}

func (e *element) addText(text string) {
	text = strings.Trim(text, xmlSpace)
	switch {
	case text == "":
	case len(e.parts) > 0:
		e.parts[textKey] = text
	default:
		e.text = text
	}
}

func begin(start xml.StartElement) *element {
	e := &element{name: start.Name.Local, parts: make(map[string]any, len(start.Attr))}
	for _, attribute := range start.Attr {
		e.parts[attributePrefix+attribute.Name.Local] = attribute.Value
	}
	return e
}

// parseXML returns {name: value} of the first element. What is around it does
// not count. It keeps the open elements in a list, not on the goroutine's
// stack, and not more than MaxXMLDepth of them.
func parseXML(body []byte) (map[string]any, error) {
	decoder := xml.NewDecoder(bytes.NewReader(body))
	var open []*element
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("there is no element")
		}
		if err != nil {
			return nil, err
		}
		switch token := token.(type) {
		case xml.StartElement:
			if len(open) == MaxXMLDepth {
				return nil, errDepth
			}
			open = append(open, begin(token))
		case xml.CharData:
			if len(open) > 0 {
				open[len(open)-1].addText(string(token))
			}
		case xml.EndElement:
			ended := open[len(open)-1]
			open = open[:len(open)-1]
			if len(open) == 0 {
				return map[string]any{ended.name: ended.value()}, nil
			}
			open[len(open)-1].add(ended.name, ended.value())
		}
	}
}
