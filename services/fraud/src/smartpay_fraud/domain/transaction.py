"""The payment to be scored, and the names under which its parts are remembered."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

# US cents per minor unit as (numerator, denominator), rounded: a yardstick that lets one model
# compare sizes across currencies. It moves no money, so it needs no fresh rates. A currency that
# is missing counts as one cent per minor unit.
_CENTS_PER_MINOR_UNIT: dict[str, tuple[int, int]] = {
    "AED": (27, 100),
    "ARS": (1, 1000),
    "AUD": (66, 100),
    "BGN": (55, 100),
    "BHD": (27, 100),
    "BRL": (18, 100),
    "CAD": (73, 100),
    "CHF": (113, 100),
    "CLP": (105, 1000),
    "CNY": (14, 100),
    "COP": (24, 100_000),
    "CZK": (43, 1000),
    "DKK": (145, 1000),
    "EGP": (2, 100),
    "EUR": (108, 100),
    "GBP": (127, 100),
    "HKD": (128, 1000),
    "HUF": (27, 10_000),
    "IDR": (63, 1_000_000),
    "ILS": (27, 100),
    "INR": (12, 1000),
    "JPY": (67, 100),
    "KES": (77, 10_000),
    "KRW": (73, 1000),
    "KWD": (325, 1000),
    "MXN": (55, 1000),
    "MYR": (22, 100),
    "NGN": (65, 100_000),
    "NOK": (93, 1000),
    "NZD": (60, 100),
    "PEN": (265, 1000),
    "PHP": (17, 1000),
    "PLN": (25, 100),
    "RON": (217, 1000),
    "SAR": (267, 1000),
    "SEK": (95, 1000),
    "SGD": (74, 100),
    "THB": (28, 1000),
    "TRY": (3, 100),
    "TWD": (31, 1000),
    "UAH": (24, 1000),
    "VND": (39, 10_000),
    "ZAR": (55, 1000),
    "USDC": (1, 10_000),
    "SOL": (15, 1_000_000),
}

# Addresses that mean another machine in every network (RFC 1918, 3927, 4193, 6598): a payer's
# address that lies here is a proxy's, and says nothing about the payer.
# By version: first and last numbers, which compare faster than addresses do.
_LOCAL_RANGES: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
for _network in map(
    ipaddress.ip_network,
    (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    ),
):
    _LOCAL_RANGES[_network.version].append(
        (int(_network.network_address), int(_network.broadcast_address))
    )
_IPV6_SUBSCRIBER_BITS = 64  # RFC 6177: a subscriber holds at least a /64, so that is one payer
_ADDRESSES_REMEMBERED = 8192  # parsing costs more than a lookup; busy networks come back at once


class TransactionKey(NamedTuple):
    """Names one transaction for ever: idempotency and tenancy hang on all three parts."""

    merchant_id: str
    livemode: bool
    transaction_id: str


@dataclass(frozen=True, slots=True)
class Transaction:
    """One payment as its merchant describes it; None or empty inputs are simply not known.

    Attributes:
        merchant_id: whose payment it is.
        livemode: real money or test; the two never share memory.
        transaction_id: the merchant's or the payment's own id, unique per merchant and mode.
        amount_minor: whole minor units of the currency, positive.
        currency_code: ISO 4217, upper case.
        customer_id: the merchant's name for the payer.
        instrument_id: what identifies the card or wallet at this merchant.
        device_id: the merchant's name for the payer's device.
        ip_address: the payer's address, IPv4 or IPv6 text.
        terminal_id: the point of sale, shop or sub-merchant; without one the merchant itself.
        merchant_category: what is sold there, a 4-digit code (ISO 18245).
        country: the payer's country, ISO 3166-1 alpha-2, upper case.
    """

    merchant_id: str
    livemode: bool
    transaction_id: str
    amount_minor: int
    currency_code: str
    customer_id: str = ""
    instrument_id: str = ""
    device_id: str = ""
    ip_address: str = ""
    terminal_id: str = ""
    merchant_category: str = ""
    country: str = ""

    @property
    def key(self) -> TransactionKey:
        """The name that idempotency is kept under."""
        return TransactionKey(self.merchant_id, self.livemode, self.transaction_id)


def reference_cents(amount_minor: int, currency_code: str) -> int:
    """Puts amounts of all currencies on one scale, in US cents, at least 1."""
    numerator, denominator = _CENTS_PER_MINOR_UNIT.get(currency_code, (1, 1))
    return max(1, amount_minor * numerator // denominator)


@lru_cache(maxsize=_ADDRESSES_REMEMBERED)
def network_of(ip_address: str) -> str:
    """Names the payer's network, or "" when the address is missing or says nothing.

    IPv4 counts whole, IPv6 by its /64; private and loopback addresses count as missing.
    """
    if not ip_address:
        return ""
    try:
        address = ipaddress.ip_address(ip_address)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    number, version = int(address), address.version
    for first, last in _LOCAL_RANGES[version]:
        if first <= number <= last:
            return ""
    if version == 4:
        return str(address)
    return str(number >> (128 - _IPV6_SUBSCRIBER_BITS))
