// Package signature signs webhooks and checks the signatures of received ones.
//
// The scheme is Standard Webhooks (https://www.standardwebhooks.com) unless
// another [Scheme] is asked for. A message travels as three headers and a
// body:
//
//	webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek
//	webhook-timestamp: 1614265330
//	webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=
//
// The signature is made over "{id}.{timestamp}.{body}": by HMAC-SHA256 where
// the secret is whsec_… (v1), by ed25519 where it is whsk_… (v1a), so that a
// receiver needs only the public key, whpk_…. The webhook-id stays the same
// when a message is sent again, so it is what a receiver recognises duplicates
// by; the timestamp is that of the attempt, so that an old request cannot be
// played back.
//
// While a secret is being replaced, a sender signs with the old and the new
// one. The header then holds several signatures with a space between them, and
// a receiver is content with any one that matches any secret it knows.
// Signatures of a version this package does not know are passed over.
//
// For receivers that know other ways there are the schemes of [GitHub] and
// [Stripe], and [Custom] ones: an HMAC in a header of one's own.
//
// A receiver needs one call, [Verify], or, for all but the symmetric Standard
// Webhooks, a [Verifier]. A sender keeps a [Signer] for each endpoint, or calls
// [Sign] for a single message.
package signature
