"""Lists of whom to block, to look at or to let through, kept in memory for the hot path."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from smartpay_fraud.domain.transaction import Transaction
from smartpay_fraud.domain.verdict import Verdict

LISTS_MAX = 32
"""Lists per merchant and mode: each costs every score one lookup, about 0.2 us."""

ENTRIES_MAX = 50_000
"""Entries per list, about 8 MB in memory; a list that long belongs into a model."""

NETWORK_BITS_MIN = {4: 8, 6: 16}
"""The largest networks that may be listed: anything wider is a slip that blocks half the world."""

_IPV4_MAPPED_BITS = 96
_COUNTRY = re.compile(r"[A-Z]{2}")
_CATEGORY = re.compile(r"[0-9]{4}")


class Kind(Enum):
    """What a list's entries are compared with, named after the field of a transaction."""

    CUSTOMER = "customer_id"
    INSTRUMENT = "instrument_id"
    DEVICE = "device_id"
    NETWORK = "ip_address"
    COUNTRY = "country"
    TERMINAL = "terminal_id"
    CATEGORY = "merchant_category"


@dataclass(frozen=True, slots=True)
class ScreeningList:
    """A list without its entries.

    Attributes:
        list_id: ours: lst_, the cell, 24 characters.
        merchant_id: whose it is.
        livemode: real money or test.
        name: the merchant's, unique among its lists.
        kind: what entries are compared with.
        verdict: what to do with a transaction on it; None: nothing, only rules ask it.
        description: what it is for.
        create_ms: when it was made.
        update_ms: when it or its entries last changed.
        entry_count: how many entries it has, expired ones included.
    """

    list_id: str
    merchant_id: str
    livemode: bool
    name: str
    kind: Kind
    verdict: Verdict | None
    description: str
    create_ms: int
    update_ms: int
    entry_count: int = 0

    def says(self, kind: Kind, verdict: Verdict | None, description: str) -> bool:
        """Tells whether the list was made with these words."""
        return (self.kind, self.verdict, self.description) == (kind, verdict, description)


@dataclass(frozen=True, slots=True)
class Entry:
    """One value on a list.

    Attributes:
        value: in its one spelling, see `spelt`.
        expire_ms: from when on it counts no more; None: never.
        note: why it is there.
        create_ms: when it was added.
        create_actor: who added it.
    """

    value: str
    expire_ms: int | None
    note: str
    create_ms: int
    create_actor: str


def spelt(kind: Kind, value: str) -> str:
    """The one spelling of a value, so that the same thing is on a list once.

    Raises:
        ValueError: with a sentence that says what such a list holds.
    """
    match kind:
        case Kind.NETWORK:
            return str(_network(value))
        case Kind.COUNTRY if not _COUNTRY.fullmatch(value):
            raise ValueError("a country is two capital letters (ISO 3166-1), for instance DE")
        case Kind.CATEGORY if not _CATEGORY.fullmatch(value):
            raise ValueError("a merchant category is four digits (ISO 18245), for instance 5732")
    return value


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("a network is an address or CIDR, for instance 203.0.113.0/24") from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= _IPV4_MAPPED_BITS:
        bits = network.prefixlen - _IPV4_MAPPED_BITS
        network = ipaddress.ip_network(f"{mapped}/{bits}", strict=False)
    if network.prefixlen < NETWORK_BITS_MIN[network.version]:
        raise ValueError(f"a network has /{NETWORK_BITS_MIN[network.version]} or more")
    return network


class Networks:
    """Looks addresses up in networks: one lookup per width that occurs."""

    def __init__(self) -> None:
        self._widths: dict[tuple[int, int], dict[int, int | None]] = {}

    def add(self, text: str, expire_ms: int | None) -> None:
        """Takes a network in."""
        network = _network(text)
        width = self._widths.setdefault((network.version, network.prefixlen), {})
        width[int(network.network_address)] = expire_ms

    def discard(self, text: str) -> None:
        """Takes a network out."""
        network = _network(text)
        key = (network.version, network.prefixlen)
        width = self._widths.get(key, {})
        width.pop(int(network.network_address), None)
        if not width:
            self._widths.pop(key, None)

    def hold(self, ip_address: str, now_ms: int) -> bool:
        """Tells whether an address lies in one of the networks; what is no address never does."""
        try:
            address = ipaddress.ip_address(ip_address)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        number, bits_all = int(address), address.max_prefixlen
        for (version, bits), width in self._widths.items():
            if version == address.version:
                masked = number >> (bits_all - bits) << (bits_all - bits)
                if masked in width and _counts(width[masked], now_ms):
                    return True
        return False


@dataclass(slots=True)
class Listing:
    """A list with its entries, ready to be asked."""

    about: ScreeningList
    _values: dict[str, int | None] = field(default_factory=dict)
    _networks: Networks = field(default_factory=Networks)

    def __len__(self) -> int:
        """How many entries there are, expired ones included."""
        return len(self._values)

    def __contains__(self, value: str) -> bool:
        """Tells whether a value has an entry, expired or not."""
        return value in self._values

    def add(self, entries: Iterable[Entry]) -> None:
        """Takes entries in, in the place of earlier ones."""
        for entry in entries:
            self._values[entry.value] = entry.expire_ms
            if self.about.kind is Kind.NETWORK:
                self._networks.add(entry.value, entry.expire_ms)

    def discard(self, values: Iterable[str]) -> None:
        """Takes entries out."""
        for value in values:
            self._values.pop(value, None)
            if self.about.kind is Kind.NETWORK:
                self._networks.discard(value)

    def holds(self, transaction: Transaction, now_ms: int) -> bool:
        """Tells whether a transaction is on the list now; one that doesn't tell never is."""
        value: str = getattr(transaction, self.about.kind.value)
        if not value:
            return False
        if self.about.kind is Kind.NETWORK:
            return self._networks.hold(value, now_ms)
        return value in self._values and _counts(self._values[value], now_ms)


Lists = Mapping[str, Listing]
"""The lists of one merchant and mode, by id."""


def _counts(expire_ms: int | None, now_ms: int) -> bool:
    return expire_ms is None or now_ms < expire_ms
