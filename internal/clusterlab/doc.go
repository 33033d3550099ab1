// Package clusterlab runs a real cluster on loopback and breaks it: three etcd
// and three NATS servers from their Go modules, coordinators and workers as
// processes of the built binary, and a receiver that counts.
//
//	producers ──▶ coordinator 1..3 ◀──proxies── worker 1..4 ──▶ receiver
//	                 │      │                      │
//	              proxies proxies               proxies
//	                 ▼      ▼                      ▼
//	              NATS 1..3          etcd 1..3
//
// Every process has its own proxies to the engines, and every coordinator one
// that all others dial, so that each line can be cut. Processes are killed,
// stopped with SIGSTOP for longer than their lease, told to end, and drained, in
// an order that a seed decides. What must hold is what the receiver has counted:
// every acknowledged event arrived at every subscription, and twice only where
// something impolite happened in between; and those that asked for an order got
// them in it.
//
// It takes minutes, so it runs only when it is asked to: `make soak`, and
// `make scale` for the benchmark of workers.
package clusterlab
