package remote

import (
	"net/netip"
	"slices"
)

// Admit lets these addresses be dialled besides public ones.
func (c *Client) Admit(only ...netip.AddrPort) {
	c.admits = func(to netip.AddrPort) bool { return slices.Contains(only, to) || public(to) }
}

// Public tells whether an address is public.
func Public(a netip.Addr) bool { return public(netip.AddrPortFrom(a, 443)) }
