"""Which addresses belong to the public internet, so that nobody makes us call our own network."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Beyond what `is_global` leaves out (https://www.iana.org/assignments/iana-ipv4-special-registry
# and its sister for IPv6): these hold an IPv4 address that somebody may translate back, or are
# global and yet nobody's web server.
_NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.88.99.0/24",  # 6to4 relays
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64, local
        "2001::/32",  # Teredo
        "2002::/16",  # 6to4
        "::/96",  # IPv4-compatible
        "fec0::/10",  # site-local
    )
)


def is_public(address: Address) -> bool:
    """Tells whether an address is a public unicast one; an IPv6-mapped IPv4 one counts as itself.

    Cloud metadata services live on link-local and shared addresses, so they are none.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.scope_id is not None:
            return False
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address.version == net.version and address in net for net in _NEVER)


def is_loopback(address: Address) -> bool:
    """Tells whether an address is this machine's own, for development."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
