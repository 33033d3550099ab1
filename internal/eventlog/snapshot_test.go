package eventlog

import "testing"

// FuzzParseRun looks for records that would make the walk over snapshots
// fail, or never end: each leap must lead back, behind the record it is in.
func FuzzParseRun(f *testing.F) {
	for _, p := range []part{{Kind: chunkPart, First: 3}, {Kind: sealPart, First: 3}} {
		for _, body := range []any{[]byte{}, []byte("state"), seal{Seq: 9, Size: 5}} {
			record, err := encodePart(p, body)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint64(4), record)
		}
	}
	f.Fuzz(func(t *testing.T, seq uint64, data []byte) {
		r, sealed, ok := parseRun([]Record{{Seq: seq, Data: data}})
		if ok && (r.first < 1 || r.first > seq || r.end != seq) {
			t.Errorf("record %d is of the run %d to %d", seq, r.first, r.end)
		}
		if !ok {
			return
		}
		var body any = data[9:]
		kind := chunkPart
		if sealed {
			kind, body = sealPart, r.seal
		}
		again, err := encodePart(part{Kind: kind, First: r.first}, body)
		if err != nil || string(again) != string(data) {
			t.Errorf("encoded again: %x, %v, want %x", again, err, data)
		}
	})
}
