package worker

import (
	"container/list"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

const (
	// siteDivisor sets an endpoint's share of a site: beyond its first request
	// it gets a place there only while what it holds is less than this part of
	// what is free. So one alone comes to a quarter of the places, and those
	// that hang leave some to others.
	siteDivisor = 3
	// sitePrefix is how much of an IPv6 address tells sites apart: whoever has
	// one has a whole network of that length.
	sitePrefix = 64
	// addressLasts is for how long, in ms, a host is where it was seen last,
	// though it is seen elsewhere: many have several addresses, by turns.
	addressLasts = 60_000
)

// site is a place that endpoints share, a host or an address, and that gets a
// part of a worker's requests only, however many endpoints are there.
//
// Endpoints that might send a request but for a site are parked there, out of
// the way of the others, when their turn comes and it has no place for them.
// Each request that ends at the site, and each of its endpoints that no longer
// stands among the ready ones, brings the first of them back.
//
// Invariant: of those parked whom the site has a place for, as many as there
// are places, each of which is behind one of the ready ones of the site that
// stands no higher.
type site struct {
	limit    int
	inFlight int
	members  int        // endpoints of a host, hosts at an address
	parked   [2]*parked // by class; nil: there are none
}

// parked are endpoints of a class that wait for a site.
type parked struct {
	count  int
	levels [maxWindow]list.List // as a class has them
}

// admits reports whether an endpoint with so many requests on the wire may have
// one more at the site.
func (s *site) admits(inFlight int) bool {
	free := s.limit - s.inFlight
	return free > 0 && (inFlight == 0 || inFlight*siteDivisor < free)
}

// host is a host and port.
type host struct {
	site
	name    string
	address *site // where it is; nil: that is not known
	key     netip.Prefix
	seen    int64 // there, in unix ms
}

// hostOf returns what a URL's requests go to, as host:port; empty if it is none.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// isAt reports whether an endpoint counts for a host; "" is none.
func (e *endpoint) isAt(name string) bool {
	if e.host == nil {
		return name == ""
	}
	return e.host.name == name
}

// settle makes an endpoint one of the host of its route. It must not be
// placed.
func (q *queues) settle(e *endpoint) {
	q.leave(e)
	name := e.route.host
	if name == "" {
		return
	}
	h := q.hosts[name]
	if h == nil {
		h = &host{site: site{limit: q.perHost}, name: name}
		q.hosts[name] = h
	}
	h.members++
	e.host = h
	e.occupy(e.inFlight)
}

// leave takes an endpoint from its host, if it has one. It must not be placed.
func (q *queues) leave(e *endpoint) {
	h := e.host
	if h == nil {
		return
	}
	e.occupy(-e.inFlight)
	e.host = nil
	q.refill(h)
	if h.members--; h.members == 0 {
		delete(q.hosts, h.name)
		q.unlocate(h)
	}
}

// occupy counts requests of an endpoint that begin, or end, at its sites.
func (e *endpoint) occupy(n int) {
	if e.host == nil {
		return
	}
	e.host.inFlight += n
	if e.host.address != nil {
		e.host.address.inFlight += n
	}
}

// blockedBy returns a site that has no place for another request of an
// endpoint, or nil.
func (e *endpoint) blockedBy() *site {
	switch {
	case e.host == nil:
		return nil
	case !e.host.admits(e.inFlight):
		return &e.host.site
	case e.host.address != nil && !e.host.address.admits(e.inFlight):
		return e.host.address
	}
	return nil
}

// park takes an endpoint from the ready ones to where it waits for a site.
func (q *queues) park(e *endpoint, s *site) {
	q.displace(e)
	class := q.classIndex(e)
	if s.parked[class] == nil {
		s.parked[class] = new(parked)
	}
	p := s.parked[class]
	p.count++
	e.parked, e.in = p, &p.levels[e.inFlight]
	e.ready = e.in.PushBack(e)
	q.refill(e.host)
}

// refill brings an endpoint of each class back that is parked at a host, or at
// its address, and for which there is a place.
func (q *queues) refill(h *host) {
	if h == nil {
		return
	}
	q.unpark(&h.site)
	if h.address != nil {
		q.unpark(h.address)
	}
}

func (q *queues) unpark(s *site) {
	for class, p := range s.parked {
		for p != nil && p.count > 0 {
			e := p.first()
			if !s.admits(e.inFlight) {
				break
			}
			q.displace(e)
			if q.place(e); e.ready != nil {
				break
			}
		}
		if p != nil && p.count == 0 {
			s.parked[class] = nil
		}
	}
}

// first returns the one that is to come back first; there must be one.
func (p *parked) first() *endpoint {
	level := 0
	for p.levels[level].Len() == 0 {
		level++
	}
	e, _ := p.levels[level].Front().Value.(*endpoint) // nothing else is ever put there
	return e
}

// locate is told, at a time in unix ms, that a connection to a host is made at
// an address.
func (q *queues) locate(name string, at netip.Addr, now int64) {
	h := q.hosts[name]
	if h == nil || !at.IsValid() || at.IsLoopback() { // which is nobody else's
		return
	}
	at = at.Unmap().WithZone("")
	bits := at.BitLen()
	if at.Is6() {
		bits = sitePrefix
	}
	key, _ := at.Prefix(bits) // as long as there are
	switch {
	case h.key == key:
		h.seen = now
		return
	case h.address != nil && now-h.seen < addressLasts:
		return
	}
	waiting := q.unlocate(h)
	address := q.addresses[key]
	if address == nil {
		address = &site{limit: q.perAddress}
		q.addresses[key] = address
	}
	address.members++
	address.inFlight += h.inFlight
	h.address, h.key, h.seen = address, key, now
	for _, e := range waiting {
		q.place(e)
	}
}

// unlocate takes a host from its address, if it has one, and returns those of
// its endpoints that were parked there, and are in no place now.
func (q *queues) unlocate(h *host) (waiting []*endpoint) {
	address := h.address
	if address == nil {
		return nil
	}
	for _, p := range address.parked {
		if p == nil {
			continue
		}
		for level := range p.levels {
			for at := p.levels[level].Front(); at != nil; at = at.Next() {
				if e, _ := at.Value.(*endpoint); e.host == h {
					waiting = append(waiting, e)
				}
			}
		}
	}
	for _, e := range waiting {
		q.displace(e)
	}
	address.inFlight -= h.inFlight
	q.unpark(address)
	if address.members--; address.members == 0 {
		delete(q.addresses, h.key)
	}
	h.address, h.key = nil, netip.Prefix{}
	return waiting
}
