// Package assign decides which worker owns which shard. It is a pure function
// of what is known: no clock, no I/O, nothing that depends on the order of a
// map. The assigner calls it whenever something has changed, and carries out
// what it says.
//
// # What is wanted
//
//  1. Every shard has an owner, soon: an unowned shard delivers nothing.
//  2. Work is spread by what shards weigh and workers can take.
//  3. Little moves. A move is a handover: the old owner drains, the new one
//     opens connections that the old one had warm. So a shard moves only for a
//     reason, and only a few at a time.
//  4. A disturbance is not made worse. When many workers vanish in one moment
//     they have probably not died: a network or a store has. Then the survivors
//     must not be handed everything at once, only to hand it back.
//
// Hashing (consistent, rendezvous) gives 1 and 3 but not 2: with few shards to
// a worker it leaves some with twice the mean, and it cannot see load. Solving
// for the best spread anew gives 2 but not 3. So the owners of now are the
// starting point, and the plan is the difference.
//
// # How it is done
//
// The level of a worker is its load divided by its weight, as of a vessel that
// is filled. Levels are what is compared everywhere.
//
// First the unowned shards, the heaviest first, each to the worker whose level
// will be the lowest with it. This is the greedy rule for makespan scheduling:
// never more than a shard above the best, and it touches nothing that is owned.
// When a worker dies, the moves are exactly its shards, which is the least
// there can be.
//
// Then shards are taken from living owners, but no more than Limits.MovePercent
// of the shards those own, and at least one. First from workers that are
// draining, in the same way. Then from the highest level to the lowest, again
// and again, while that helps by more than Limits.SlackPercent of the mean
// level. Of the highest worker's shards the one is taken that comes closest to
// evening the two out without turning them over, or else the lightest. As each
// move takes from the highest and gives to the lowest, no shard moves on its
// way to somewhere else: when a worker joins, each move is one to it, and there
// are as many as it takes to fill it up to the others, less the slack.
//
// The slack is what keeps plans still: loads are measurements, and two that are
// nearly even must not hand a shard to and fro. Each move lowers the higher of
// two levels and leaves the other below where that was, so that the levels, in
// falling order, only ever get smaller: planning ends, and so does planning
// again. With shards of equal load the rule stops when no worker is above
// another by more than a shard and the slack: within 1.25 of the mean as soon
// as workers have five shards or more, and below that as even as whole shards
// can be.
//
// # When many vanish at once
//
// A State goes from plan to plan. In it is who was there before the losses
// began. If more than Limits.VanishPercent of those are missing, and at least
// two, the plan is to do nothing, and to be asked again after Limits.HoldDown.
// Who returns in that time finds its work where it left it. If too many are
// still missing then, that is how things are, and everything is assigned.
//
// Losses within one hold-down count together, because the leases of workers that
// were cut off in one moment end over some seconds. New workers make up for
// missing ones: a fleet that is replaced has not vanished. Workers that drain
// are leaving on purpose and are not missed. A single worker is always
// replaced at once, also when it is one of two; two that are missing can be a
// rack. An assigner that has just been elected has an empty State and takes
// whom it finds as all there are.
package assign
