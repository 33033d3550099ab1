// Package architecture holds the import graph to the rules that make it the
// architecture. It has no code of its own, only a test.
//
//	                      proto/
//	          ┌─────────────┴────────────┐
//	     coordinator/                 worker/     meet nowhere else
//	   ┌──────┴─┬─────────┐
//	ledger/ dispatch/  assign/                    pure: no clock, no I/O
//
//	signature/      receiver/     client/         public: nothing of the above
//	(std only)
//
// The linters state most of this too. They can be silenced by a comment; this
// test cannot, and it follows what the pure packages import of ours.
package architecture
