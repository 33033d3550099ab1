// Package coordinator is the side of the cluster that takes events and decides
// who delivers them.
//
// A coordinator is a member of the cluster that leads the partitions it is
// chosen for (package lead), campaigns to be the one that chooses, and that
// assigns shards to workers (package assign), and serves the API (package
// serve), its own partitions' and, by forwarding, all others' (package route):
//
//	Run ─┬─ gRPC and HTTP servers
//	     └─ for each life as a member ─┬─ view of the cluster
//	                                   ├─ assigner: campaign, plan, write
//	                                   ├─ per partition: await the turn, claim, lead, hand over
//	                                   └─ at the end: have the others take over
package coordinator
