// Package alert decides what needs somebody's attention, and when to say so.
//
// It is pure: time is an argument, and nothing is done here. There are three
// parts.
//
//   - A Rule says when alerts of a kind fire, for how long it must be so, and
//     how often it is said again. Each kind has a default; a tenant and a
//     subscription may have rules of their own (Rules).
//   - Judge looks at one subscription, and Survey at the whole cluster, and say
//     which conditions hold: of each kind yes or no, since when, and why.
//   - A Board takes conditions and makes alerts of them: it waits as long as
//     the rule says, fires once, says it again from time to time, and is calm
//     for a moment before it says that all is well, so that what comes and goes
//     is one alert.
//
// # Over a change of leader
//
// What a condition rests on is in the ledger as far as it can be: since when an
// endpoint fails does not change when another leads. And what the board has
// fired is made durable before anybody is told, with whether they were. So the
// next leader's board goes on with the alerts there are (Restore): it fires
// none again, tells what the one before could not, and resolves what is over
// by then. What is only counted, in Windows, begins anew; an alert that rests
// on it stays for as long as its rule counts, and is resolved if nothing new
// has confirmed it by then.
package alert
