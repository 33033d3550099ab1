// Package coordinator is the side of the cluster that takes events and decides
// who delivers them.
//
// A coordinator is a member of the cluster that campaigns for partitions and
// leads those it gets (package lead), campaigns to be the one that assigns
// shards to workers (package assign), and serves the API (package serve):
//
//	Run ─┬─ gRPC and HTTP servers
//	     └─ for each life as a member ─┬─ view of the cluster
//	                                   ├─ assigner: campaign, plan, write
//	                                   └─ per partition: campaign, lead
package coordinator
