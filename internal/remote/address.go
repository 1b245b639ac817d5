package remote

import (
	"context"
	"net/netip"
	"slices"
	"syscall"

	"enkeyserver/internal/errs"
)

// admission says whether an address may be dialled.
type admission func(netip.AddrPort) bool

// anything is for development.
func anything(netip.AddrPort) bool { return true }

// control looks at each address when it is about to be dialled, which is after
// names are resolved and after redirects: nothing comes between the look and
// the connection.
func (c *Client) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !c.admits(to) {
		return errs.Invalid("remote_address", "the server has an address that is not public: only in development, REMOTE_ALLOW_PRIVATE allows it")
	}
	return nil
}

// public tells whether an address belongs to the Internet at large, and so to
// nobody's inner network.
func public(to netip.AddrPort) bool {
	a := to.Addr()
	if translated.Contains(a) {
		// A network that has IPv6 alone reaches all of IPv4 through these.
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	in := func(p netip.Prefix) bool { return p.Contains(a) }
	return (a.Is4() || unicast.Contains(a)) && !slices.ContainsFunc(special, in)
}

var (
	unicast    = netip.MustParsePrefix("2000::/3")     // all that is given out of IPv6, RFC 4291
	translated = netip.MustParsePrefix("64:ff9b::/96") // IPv4 behind a translator, RFC 6052
)

// special are the parts of IPv4, and of unicast, that are not for the public:
// IANA's registries of special-purpose addresses, multicast, and one of
// Azure's. IPv6 outside unicast is refused as a whole, with it addresses of IPv4
// in the dress of IPv6.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),        // this network
	netip.MustParsePrefix("10.0.0.0/8"),       // private
	netip.MustParsePrefix("100.64.0.0/10"),    // shared by the customers of a provider
	netip.MustParsePrefix("127.0.0.0/8"),      // this machine
	netip.MustParsePrefix("168.63.129.16/32"), // Azure's own, for its machines
	netip.MustParsePrefix("169.254.0.0/16"),   // this link; clouds tell secrets here
	netip.MustParsePrefix("172.16.0.0/12"),    // private
	netip.MustParsePrefix("192.0.0.0/24"),     // protocols; another cloud's secrets
	netip.MustParsePrefix("192.0.2.0/24"),     // documentation
	netip.MustParsePrefix("192.88.99.0/24"),   // relays to IPv6
	netip.MustParsePrefix("192.168.0.0/16"),   // private
	netip.MustParsePrefix("198.18.0.0/15"),    // measurements
	netip.MustParsePrefix("198.51.100.0/24"),  // documentation
	netip.MustParsePrefix("203.0.113.0/24"),   // documentation
	netip.MustParsePrefix("224.0.0.0/4"),      // multicast
	netip.MustParsePrefix("240.0.0.0/4"),      // reserved; broadcast
	netip.MustParsePrefix("2001::/23"),        // protocols; tunnels that hide IPv4
	netip.MustParsePrefix("2001:db8::/32"),    // documentation
	netip.MustParsePrefix("2002::/16"),        // tunnels that hide IPv4
	netip.MustParsePrefix("3fff::/20"),        // documentation
}
