"""How finely each currency is counted, so that an amount can be spelt and read without a float.

Minor units are those of ISO 4217 (list one, https://www.six-group.com), and of the two tokens the
contract knows. What a processor counts otherwise is its adapter's business.
"""

from __future__ import annotations

import re

_NONE = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_THREE = "BHD IQD JOD KWD LYD OMR TND"
_TWO = """
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF
CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL
HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP
MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD
SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS
VED VES WST XCD XCG YER ZAR ZMW ZWG
"""
EXPONENTS: dict[str, int] = {
    **dict.fromkeys(_NONE.split(), 0),
    **dict.fromkeys(_TWO.split(), 2),
    **dict.fromkeys(_THREE.split(), 3),
    "CLF": 4,
    "USDC": 6,
    "SOL": 9,
}
"""Decimals of the minor unit by currency code; every currency of the contract stands here."""

_DECIMAL = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?")


def decimal_text(minor_units: int, currency_code: str) -> str:
    """Spells an amount as a plain decimal with all its decimals, for instance "19.99".

    Raises:
        KeyError: the currency is not known.
    """
    exponent = EXPONENTS[currency_code]
    digits = str(abs(minor_units)).rjust(exponent + 1, "0")
    sign = "-" if minor_units < 0 else ""
    if not exponent:
        return sign + digits
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}"


def minor_units_of(text: str, currency_code: str) -> int:
    """Reads a plain decimal such as "19.99", "19.9" or "19" as minor units.

    Raises:
        KeyError: the currency is not known.
        ValueError: no plain decimal, or finer than the currency is counted.
    """
    exponent = EXPONENTS[currency_code]
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r:.40} is no plain decimal")
    sign, whole, fraction = match[1], match[2], (match[3] or "").rstrip("0")
    if len(fraction) > exponent:
        raise ValueError(f"{text!r:.40} is finer than {currency_code} is counted")
    units = int(whole + fraction.ljust(exponent, "0"))
    return -units if sign else units
