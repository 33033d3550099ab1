// Package bench measures what a cluster does on the machine it is on, and says
// so as a share of what a plain HTTP client does there.
//
// An absolute figure says more about the machine, and about what else it was
// doing, than about the program. So every run measures its own baseline: a
// closed loop of signed POSTs of the same body to the same receivers, by
// net/http and by fasthttp, before and after the load. What is reported first
// is the ratio.
//
//	baseline ─▶ load ─▶ [ load with bad endpoints ] ─▶ baseline
//
// The producers and the receivers are in this process, so a latency is taken
// with one clock: from the moment a Publish was due to begin, to the moment
// the receiver has read the request. With a rate, that moment is when it was
// due and not when there was time for it, so that a stall counts for all whom
// it delays (coordinated omission). Every event has a number in its id: what
// arrives twice, or not at all, is known exactly.
package bench
