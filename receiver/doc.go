// Package receiver is the other end of a webhook: it takes requests in, checks
// that they are what they claim to be, and calls a handler for each event, once.
//
//	request ─▶ origin ─▶ body ─▶ signature ─▶ events ─▶ claim ─▶ handler
//	            403       413      401          400      200/409    2xx, 5xx
//
// A request passes these steps in this order, and each has one answer for what
// does not pass: nothing of a request is looked at before the step in front of
// it has let it through. The body is read once, up to a limit, and what is
// verified is those bytes; so are the bytes a handler sees, unless they were
// compressed: gzip is taken off behind the signature, up to the same limit.
//
// # Once
//
// Senders send again what they have no answer for, so the same event comes
// twice sooner or later. A [Store] remembers which have been handled. An event
// is claimed before its handler runs, and the claim is settled after it: done,
// or released so that the sender's next attempt is handled. Two requests with
// the same event at the same moment run one handler: the other is told to come
// again. A process that dies with a claim in hand leaves it to expire.
//
// What a handler does besides must bear that: between its success and the Done
// of its claim lies a moment in which a crash makes it run again. A handler
// that writes to a database closes that gap with [SQLStore.DoneIn], in the
// transaction it writes in.
//
// # Now or later
//
// A handler's error is the sender's to repair, by sending again, so it runs
// before the answer. Senders wait a few seconds only; a handler that takes
// longer runs behind a queue, with [Config.Queue]: then the answer comes when
// the event is queued, a full queue answers 503 with Retry-After, and what is
// queued when the process dies is lost unless the sender sends it again, for it
// was told that all is well. Durable work belongs into a durable queue; give
// the event to one in the handler.
//
// # What is understood
//
// Signatures: all schemes of package signature. Events: Standard Webhooks
// (`type`, `timestamp`, `data`), CloudEvents in its three modes, GitHub and
// Stripe by their own headers and fields, and JSON arrays of Standard Webhooks
// or CloudEvents, which are unpacked. Anything else is one event with the whole
// body as its data.
package receiver
