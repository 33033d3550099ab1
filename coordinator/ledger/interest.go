package ledger

import "slices"

// maxEras bounds how many changes of its event types a subscription that is
// behind remembers. Beyond it the two oldest eras become one that wants what
// either wanted: rather more is sent than less. For the same reason such an era
// wants everything once it has more than maxUnion patterns.
const (
	maxEras  = 16
	maxUnion = 1000
)

// Interest says which event types a subscription wants, and wanted in the part
// of the log that it has still to be caught up from. It is never changed in
// place.
type Interest struct {
	patterns []string // now
	eras     []era    // by rising end, none twice; only of a subscription that is behind
}

// era is a stretch of the log in which other types were wanted.
type era struct {
	until    uint64 // it ends before this record
	patterns []string
}

// Wants reports whether an event of this type, in this record, is wanted.
func (i Interest) Wants(sequence uint64, eventType string) bool {
	for _, e := range i.eras {
		if sequence < e.until {
			return Matches(e.patterns, eventType)
		}
	}
	return Matches(i.patterns, eventType)
}

// changed returns the interest with other patterns from a record on.
func (i Interest) changed(sequence uint64, patterns []string) Interest {
	if slices.Equal(i.patterns, patterns) {
		return i
	}
	if n := len(i.eras); n > 0 && i.eras[n-1].until == sequence {
		return Interest{patterns, i.eras} // changed twice by one record
	}
	eras := append(slices.Clone(i.eras), era{sequence, i.patterns})
	if len(eras) > maxEras {
		eras[1].patterns = union(eras[0].patterns, eras[1].patterns)
		eras = eras[1:]
	}
	return Interest{patterns, eras}
}

// after returns the interest without the eras that end at or before a record.
func (i Interest) after(sequence uint64) Interest {
	n := 0
	for n < len(i.eras) && i.eras[n].until <= sequence {
		n++
	}
	return Interest{i.patterns, i.eras[n:]}
}

// union returns patterns that match what either list matches, or everything if
// there are too many.
func union(a, b []string) []string {
	both := slices.Concat(a, b)
	slices.Sort(both)
	both = slices.Compact(both)
	if everything(a) || everything(b) || len(both) > maxUnion {
		return []string{"*"}
	}
	return both
}
