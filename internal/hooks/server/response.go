package server

import (
	"bytes"
	"fmt"
	"net/http"
	"time"
)

// response remembers what was answered. It is owned by the request's
// goroutine, or by the copier of a streamed answer while that runs.
type response struct {
	http.ResponseWriter

	timeout time.Duration
	status  int // 0 until it is known
	size    int64
	// dump is what was written, for -debug; nil without.
	dump *head
}

// Unwrap is for http.ResponseController.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (r *response) WriteHeader(status int) {
	const final = 200
	if r.status == 0 && (status >= final || status == http.StatusSwitchingProtocols) {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter. It fails if the client does not take
// it within the timeout.
func (r *response) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	if r.dump != nil {
		_, _ = r.dump.Write(p) // never fails
	}
	// Not every connection has deadlines; those of net.Listen do.
	_ = http.NewResponseController(r.ResponseWriter).SetWriteDeadline(time.Now().Add(r.timeout))
	n, err := r.ResponseWriter.Write(p)
	r.size += int64(n)
	return n, err
}

// answer sends a status and a text. The client may be gone.
func (r *response) answer(status int, text string) {
	r.WriteHeader(status)
	if text != "" {
		_, _ = r.Write([]byte(text))
	}
}

// started reports whether an answer was begun.
func (r *response) started() bool { return r.status != 0 }

// describe returns the answer as -debug shows it.
func (r *response) describe() string {
	var b bytes.Buffer
	status := r.status
	if status == 0 {
		status = http.StatusOK
	}
	fmt.Fprintf(&b, "%d %s\n", status, http.StatusText(status))
	_ = r.Header().Write(&b) // a buffer takes everything
	b.WriteString("\n")
	b.Write(r.dump.kept)
	return b.String()
}

// streamed writes a command's output into an answer while it comes. The first
// byte decides the status.
type streamed struct {
	*response

	status int
}

// Write implements io.Writer.
func (s *streamed) Write(p []byte) (int, error) {
	if !s.started() {
		s.Header().Set("Trailer", exitCodeTrailer)
		s.WriteHeader(s.status)
	}
	n, err := s.response.Write(p)
	if err != nil {
		return n, err
	}
	return n, http.NewResponseController(s.ResponseWriter).Flush()
}

// iecSize writes a size in the units of IEC, as access lines have it.
func iecSize(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, units := float64(n)/unit, "KMGTPE"
	i := 0
	for ; value >= unit; i++ {
		value /= unit
	}
	return fmt.Sprintf("%.1f %ciB", value, units[i])
}
