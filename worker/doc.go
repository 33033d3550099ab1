// Package worker is the part of a cluster that calls endpoints. A worker keeps
// nothing: kill it, and all that is lost is time.
//
//	         keys in the store                      leaders of partitions
//	   shards/…        partitions/…/ready            ^      ^      ^
//	      |                  |                       | one session each
//	      v                  v                       v      v      v
//	+-----------+    which slots, which leader   +-------+-------+-------+
//	|    run    |------------------------------->| agent | agent | agent |
//	+-----------+                                +-------+-------+-------+
//	                              deliveries queued |      ^ outcomes
//	                                                v      |
//	                                             +---------------+
//	                                             |   launcher    |  queues
//	                                             +---------------+
//	                                                |  |  |  |  one goroutine each
//	                                                v  v  v  v
//	                                                 attempts --> endpoints
//
// # The link
//
// For each partition of which the worker owns a slot, an agent keeps one
// Attach stream to the leader. The stream is a unit of failure: whatever goes
// wrong ends it whole, and the next one begins like the first, with all that
// the worker has. So there is one path for starting, for a connection that
// broke and for a leader that is new, and it is walked all the time.
//
// What outlives a session is the agent's hand: every delivery it was given,
// until its outcome is durable. A delivery is in one of three states there
//
//	queued  ->  on the wire  ->  ended, outcome not durable  ->  (forgotten)
//	   \_______ handed back ________/
//
// and in each of them the next session's Claim names it, so that the leader
// gives it to nobody else. Requests on the wire do not notice that a session
// ends. Outcomes gather into numbered batches that are sent in each session
// until one is told that they are durable. Credit is taken by what is in hand,
// so outcomes that cannot be reported stop new deliveries from coming, and the
// worker's memory stays bounded whatever happens to the leader. The bytes of it
// are one budget, of which each partition that the worker owns slots of has its
// part; leaders are told when that changes.
//
// A slot that is lost is given up in an order the leader can rely on: first
// nothing more is started for it, then what was queued comes back as RETURNED,
// then Release. What is on the wire ends with an outcome later.
//
// # The attempt
//
// The launcher has a fixed number of slots for requests and gives them to
// endpoints by the rules of queues, which are there to keep endpoints that
// hang from being felt by others, and those of one host or one address from
// having them all. An attempt renders the event as the
// subscription wants it, signs those bytes, sends them, and reads the answer,
// all within one time limit. A 2xx answer that is whole is a success. After
// anything else the worker works out when the next attempt is due, reports it,
// and forgets the delivery: timers live in the ledger, where they survive the
// worker. After five failures of an endpoint in a row the rest of its queue
// goes home as well, unattempted. So does what is queued for an endpoint that
// asks, by 429 or 503 with Retry-After, to be left alone.
//
// # Order and batches
//
// A delivery of a lane is queued only when the one before it in the lane was
// delivered: that is known where the outcome is kept, in the agent, so queues
// know nothing of lanes. A batched endpoint has several of a lane in its queue,
// and one batch on the wire. Either way, just before a request begins, it is
// looked at once more whether its deliveries are the first of their lanes.
//
// # Two promises
//
// Ending the context of Run means "take no more work". The requests on the wire
// have a context of their own, "abort what is in hand", which ends only when
// the grace is over. So a worker that is told to stop loses nothing, and
// nothing is sent twice on its account.
package worker
