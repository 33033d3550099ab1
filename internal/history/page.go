package history

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
)

// list is a query whose rows are read page by page. The order is total and a
// row's key never changes, so a page begins right after the key that ended
// the one before, whatever was written meanwhile.
//
// Its SQL, and that of package history's other reads, is such that SQLite and
// PostgreSQL take it alike.
type list struct {
	table   string
	columns string
	key     []string  // integer columns, the most significant first
	order   direction // of key
	terms   []string
	args    []any
	// either, unless it is empty, holds conditions of which a row must meet
	// one and can meet no two. Each is searched for by itself, and the rows are
	// merged: so each is read in the order of an index, where one search for
	// all would have to sort.
	either []string
}

// direction is the order of a list.
type direction int

const (
	newestFirst direction = iota
	oldestFirst
)

// and adds a condition: left, an operator, and one value or a row of them.
func (l *list) and(left, operator string, values ...any) {
	marks := make([]string, len(values))
	for i, value := range values {
		l.args = append(l.args, value)
		marks[i] = "$" + strconv.Itoa(len(l.args))
	}
	right := strings.Join(marks, ", ")
	if len(values) > 1 {
		right = "(" + right + ")"
	}
	l.terms = append(l.terms, left+" "+operator+" "+right)
}

// after skips the rows up to and including the one of key.
func (l *list) after(key []int64) {
	values := make([]any, len(key))
	for i, value := range key {
		values[i] = value
	}
	operator := "<"
	if l.order == oldestFirst {
		operator = ">"
	}
	l.and("("+strings.Join(l.key, ", ")+")", operator, values...)
}

// query returns the SQL of at most limit rows: the key columns, then columns.
func (l *list) query(limit int) string {
	suffix := " DESC"
	if l.order == oldestFirst {
		suffix = ""
	}
	return strings.Join(l.selects(strings.Join(l.key, ", ")+", "+l.columns), " UNION ALL ") +
		" ORDER BY " + strings.Join(l.key, suffix+", ") + suffix +
		" LIMIT " + strconv.Itoa(limit)
}

// count returns the SQL of how many rows there are.
func (l *list) count() string {
	return "SELECT (" + strings.Join(l.selects("count(*)"), ") + (") + ")"
}

// selects returns the SQL of the searches that together find every row once.
func (l *list) selects(columns string) []string {
	search := "SELECT " + columns + " FROM " + l.table + " WHERE " + strings.Join(l.terms, " AND ")
	if len(l.either) == 0 {
		return []string{search}
	}
	searches := make([]string, len(l.either))
	for i, condition := range l.either {
		searches[i] = search + " AND " + condition
	}
	return searches
}

// fingerprint tells queries apart, so that a page token of one is not taken
// for another's. It is no secret: a forged token only begins elsewhere in a
// list that its bearer may read.
func (l *list) fingerprint() uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %q %q %#v", l.table, l.terms, l.either, l.args)
	return h.Sum64()
}

// fetch reads one page of l. read turns one row into an item: it calls scan
// with places for l.columns, after which key holds the row's key.
func fetch[T any](ctx context.Context, db *sql.DB, l list, page Page, read func(key []int64, scan func(...any) error) (T, error)) (items []T, next string, err error) {
	fingerprint := l.fingerprint()
	if page.Token != "" {
		key, err := parsePageToken(page.Token, fingerprint, len(l.key))
		if err != nil {
			return nil, "", err
		}
		l.after(key)
	}
	rows, err := db.QueryContext(ctx, l.query(page.Size+1), l.args...)
	if err != nil {
		return nil, "", fmt.Errorf("querying %s: %w", l.table, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()

	key := make([]int64, len(l.key))
	scan := func(columns ...any) error {
		places := make([]any, 0, len(key)+len(columns))
		for i := range key {
			places = append(places, &key[i])
		}
		return rows.Scan(append(places, columns...)...)
	}
	for rows.Next() {
		if len(items) == page.Size { // one more than asked for: there is a next page
			return items, next, nil
		}
		item, err := read(key, scan)
		if err != nil {
			return nil, "", fmt.Errorf("reading row of %s: %w", l.table, err)
		}
		items = append(items, item)
		next = pageToken(fingerprint, key)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("reading %s: %w", l.table, err)
	}
	return items, "", nil
}

// pageToken names the page that follows the row of key, in the list with the
// fingerprint: the fingerprint in 8 bytes, then the key in varints.
func pageToken(fingerprint uint64, key []int64) string {
	token := binary.BigEndian.AppendUint64(nil, fingerprint)
	for _, value := range key {
		token = binary.AppendVarint(token, value)
	}
	return base64.RawURLEncoding.EncodeToString(token)
}

// parsePageToken returns the key of a token made by pageToken with the same
// fingerprint and as many key columns, or ErrPageToken.
func parsePageToken(token string, fingerprint uint64, columns int) ([]int64, error) {
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(data) < 8 || binary.BigEndian.Uint64(data) != fingerprint {
		return nil, ErrPageToken
	}
	data = data[8:]
	key := make([]int64, columns)
	for i := range key {
		value, n := binary.Varint(data)
		if n <= 0 {
			return nil, ErrPageToken
		}
		key[i], data = value, data[n:]
	}
	if len(data) > 0 {
		return nil, ErrPageToken
	}
	return key, nil
}
