// Package signature signs webhooks and checks the signatures of received ones.
//
// The scheme is Standard Webhooks (https://www.standardwebhooks.com),
// symmetric, version v1. A message travels as three headers and a body:
//
//	webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek
//	webhook-timestamp: 1614265330
//	webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=
//
// The signature is HMAC-SHA256 over "{id}.{timestamp}.{body}". The webhook-id
// stays the same when a message is sent again, so it is what a receiver
// recognises duplicates by; the timestamp is that of the attempt, so that an
// old request cannot be played back.
//
// While a secret is being replaced, a sender signs with the old and the new
// one. The header then holds several signatures with a space between them, and
// a receiver is content with any one that matches any secret it knows.
// Signatures of a version this package does not know are passed over.
//
// A receiver needs one call, [Verify]. A sender keeps a [Signer] for each
// endpoint, or calls [Sign] for a single message.
package signature
