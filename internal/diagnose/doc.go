// Package diagnose finds out why the signature of a webhook does not hold.
//
// A signature that does not match says only that something differs: the secret,
// the body, or what else is signed. But the ways to get it wrong are few, and
// every receiver's author meets the same: a framework that has parsed the JSON
// and written it anew, a secret that was not base64 decoded, an editor that has
// added a line end. So each usual mistake is made here on purpose, one at a
// time and then in pairs, and the one with which the signature holds is the
// one that was made.
package diagnose
