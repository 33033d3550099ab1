// Package canary breaks a promise on purpose, to see whether the simulation
// notices. Nothing of it is in a real build: without the build tag `canary`,
// On is false and the compiler drops what depends on it.
package canary

// Name names a promise to break.
type Name string

// The promises that can be broken.
const (
	// IgnoreFence: a leader that was fenced goes on as if its append had been
	// stored.
	IgnoreFence Name = "ignore-fence"
	// AckBeforeCommit: events are acknowledged before they are in the log.
	AckBeforeCommit Name = "ack-before-commit"
	// ForgetPromotion: a subscription that was behind becomes current without
	// what was published meanwhile.
	ForgetPromotion Name = "forget-promotion"
	// PurgeTooFar: the log is purged up to the newest snapshot, whatever is
	// still owed.
	PurgeTooFar Name = "purge-too-far"
)
