// Package sim runs a whole cluster in a testing/synctest bubble: coordinators,
// workers and endpoints in production code, on a virtual clock, in memory.
//
//	       Client                                     Endpoint
//	         │ gRPC                                      ▲ HTTP
//	┌────────▼─────────┐       gRPC        ┌─────────────┴────┐
//	│ Coordinator 1..n │◀──────────────────│   Worker 1..n    │
//	└──┬─────┬─────┬───┘                   └────────┬─────────┘
//	   │     │     └────────────┐                   │
//	 logs  history           members, owners ◀──────┘
//
// Every line of the drawing can be cut, and every process killed. The logs and
// the members are the in-memory stores that pass the same conformance suites
// as the real ones, the history is SQLite, and the connections are pipes.
// Nothing of the product is replaced.
//
// Days of retries pass in no time, and a goroutine that outlives its process
// fails the test.
//
// # What a kill is
//
// A goroutine cannot be killed, so a process is: it is cut off from everything
// at one moment, for good, and then told to end. Whatever it does after that
// moment nobody can see. Its lease ends by itself, as that of the dead does.
package sim
