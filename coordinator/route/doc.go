// Package route brings each call to the leader of the partition it is about,
// so that clients may call any coordinator.
//
// There is one mechanism for all methods: two interceptors, between those that
// say who may call and the handlers. What a call is about is read from its
// request by reflection: the tenant in the resource name of its field parent or
// name, in tenant_id, or in the name of the resource it carries; or the number
// in its field partition. A request without any of these is served where it
// arrives.
//
//	client ──▶ entry ── led here? ──▶ handler
//	             │ no
//	             └── member connection ──▶ leader ──▶ handler
//
// # When the leader is not who it was
//
// The entry looks again, for Patience, and so hides a handover that takes less.
// What it may send a second time depends on what it knows of the first:
//
//   - Nothing was handed over: the call was never sent, or the process that got
//     it says that it does not lead (ReasonNotLeader). Any call is sent again.
//   - It was handed over and not answered: the connection broke, the leadership
//     ended meanwhile (ReasonLeaderMoved), or another leader is ready and this
//     one has said nothing yet. Only a call that changes nothing by being made
//     twice is sent again: reads, and Publish, since each of its events has an
//     id. Where the producer gave none the entry does, once, before it forwards.
//   - Anything else is an answer, and is passed on.
//
// A stream is forwarded whole, and breaks with its leader: the client hears
// UNAVAILABLE and opens a new one. Only one that had not begun is opened again
// by the entry.
//
// # Limits
//
// A call is forwarded MaxHops times at most, so that two coordinators which each
// take the other for the leader do not play ball with it. A forwarded call has
// a little less time than its caller has, so that the answer is the leader's and
// not the caller's clock's.
package route
