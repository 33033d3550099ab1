// Package notify tells of alerts: a log, Alertmanager, a chat, or whatever a
// Sink is.
//
// Each of them has a goroutine of its own and a bounded queue, so that one that
// is slow, or away, holds up nobody: not the others, and not who tells. What a
// sink does not take is tried again for an hour; when its queue is full the
// oldest goes. Alertmanager has no queue: it is told what fires, again and
// again, as its protocol wants, so nothing is lost on it however long it is
// away.
package notify
