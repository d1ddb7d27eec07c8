"""Amounts and shares in words. Whole numbers come in; Decimal serves the eye only."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal

# ISO 4217 as the contract's Money takes it, and its two tokens.
CURRENCIES = frozenset(
    re.findall(
        "[A-Z]+",
        """
        AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN
        BWP BYN BZD CAD CDF CHF CLF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR
        FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD
        JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT
        MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG
        QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS
        TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF
        YER ZAR ZMW ZWG USDC SOL
        """,
    )
)

# Digits after the point where they are not two: ISO 4217 (list one), and the two tokens of the
# contract.
_EXPONENTS = {
    **dict.fromkeys(
        (
            *("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND"),
            *("VUV", "XAF", "XOF", "XPF"),
        ),
        0,
    ),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    "CLF": 4,
    "USDC": 6,
    "SOL": 9,
}
_USUAL_EXPONENT = 2


def in_words(minor_units: int, currency: str) -> str:
    """Writes an amount as a person reads it, for instance "1,234.56 USD" or "1,235 JPY"."""
    exponent = _EXPONENTS.get(currency, _USUAL_EXPONENT)
    return f"{Decimal(minor_units).scaleb(-exponent):,.{exponent}f} {currency}"


def mean_minor(total_minor: int, count: int) -> int:
    """Divides an amount among a count of payments, to the nearest minor unit, halves up."""
    return (2 * total_minor + count) // (2 * count)


def percent(part: int, whole: int) -> str:
    """Writes a share to a tenth of a percent, halves to even; whole must not be 0."""
    share = (Decimal(100 * part) / whole).quantize(Decimal("0.1"), ROUND_HALF_EVEN)
    return f"{share} %"


def probability(value: float, places: int) -> str:
    """Writes a probability from 0 to 1 with a fixed number of places."""
    return str(Decimal(repr(value)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN))
