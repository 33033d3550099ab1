// Package dispatch decides which outstanding deliveries are in which worker's
// hands.
//
// It is a machine beside the ledger: told of every change in what is owed, of
// sessions that come and go, of shards claimed and released, and of the time,
// it says what to send next. It reads no clock, does no I/O, and holds nothing
// that must last: a new leader starts with everything waiting, and learns from
// the workers' claims what they still have in hand.
//
// # Where a delivery is
//
// A delivery that is owed is in one of two places. It waits, in its
// subscription's heap, until it is due; or it is in a session's hands, until
// its outcome is durable, until it is handed back, or until the session is
// known to be gone. It is never in both, so nobody is sent what somebody has.
//
// # Who gets it
//
// A subscription belongs to a slot (its number modulo the slots), a slot to
// the session that claimed it with the highest epoch. When a slot changes
// hands while the old owner is attached, what the old owner has stays with it
// until it ends; only what comes after goes to the new one. When a session
// ends, what it held stays put as long as nobody else owns the slot: the same
// worker may come back and still have it. If it comes back without it, or as
// a new incarnation, or if another worker claims the slot, it waits again. A
// worker may have some of a slot that is another's by now: it says so when it
// attaches, and keeps it.
//
// # Order
//
// A delivery may be in a lane of its subscription. Those of a lane are sent in
// the order of their events: only the oldest that waits is in the subscription's
// heap, and only while nothing of the lane is in hands, or all that is is on
// its way to the owner of the slot, by turns and in order, since the owner
// keeps it. Whatever came into hands otherwise, by a claim, is waited for.
//
// # Rates
//
// A subscription with a rate is due when its bucket has a token, one of a tenant
// with a rate has its turn when that has, and queues until then.
//
// # Fairness and isolation
//
// Subscriptions with something due stand in a ring, and each turn takes one
// delivery. A subscription has a window, the most it may have in hands: it
// grows by one with a success, and halves when its endpoint fails, so an endpoint
// that answers nothing soon holds one delivery of a worker's credit, while the
// others' turns come round as before. How much the endpoint can take at a time
// is not decided here but by the worker, whose window moves by the same rule and
// is never the wider one: see its queues. A session without credit is passed over;
// it delays nobody else. The subscriptions of one host together hold no more than
// two thirds of a session's credit: the others give way until some of it ends.
package dispatch
