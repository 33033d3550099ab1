// Package egress is the way out: the HTTP client that carries attempts to the
// endpoints of subscribers, and the guard that keeps it away from everything
// else.
//
// An endpoint's URL is written by a stranger, and the worker that calls it
// stands inside a network with databases, metadata services and itself in it.
// So the worker must never connect to an address that is not public. There are
// two checks, and only the second one is relied on:
//
//	Policy.CheckURL    when a subscription is made: refuses early, and says
//	                   what is wrong with the URL
//	Policy.CheckAddr   at every dial, after the name was resolved, on the very
//	                   address that the socket is about to connect to
//
// The second sits in the dialer's Control hook, between making a socket and
// connecting it. A name that resolves differently the second time (DNS
// rebinding), a host written as 0x7f.1, an IPv6 address with a private IPv4
// address inside it: each of them arrives there as the address it really is,
// and an address the check has not seen is never connected to. Connections are
// kept alive, but each was dialled once, and so checked. Redirects, by which an
// endpoint could send the worker elsewhere, are not followed.
//
// A proxy is used only if the Config names one, never because the environment
// does. Names are resolved here then too, and the proxy is asked for a
// connection to an address that was checked: it never hears a name, so it
// cannot resolve one to something else. The price is that the worker needs DNS
// where the proxy has it. The proxy's own address is the operator's choice and
// is not checked.
//
// Beside the addresses there are lists of hosts (Policy.OnlyHosts, DenyHosts),
// which are compared with the URL, when a subscription is made and at every
// request. They say whom one wants to talk to; they are no protection against
// where a name leads.
//
// What counts as public is a short list for IPv4, the IANA special-purpose
// registry, and for IPv6 the reverse: only global unicast, less the parts of
// it that are not, is public. Addresses that carry an IPv4 address to which
// the network would translate are judged by that one.
package egress
