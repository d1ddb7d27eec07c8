"""Reads a `solana:` address as a careful wallet does: the Solana Pay specification's grammar.

Source: github.com/solana-foundation/solana-pay, docs/SPEC.md, "Transfer Request".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from solders.pubkey import Pubkey

AMOUNT = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?")
BASE_UNITS_MAX = 2**62  # a token account holds twice as much
ONCE = ("amount", "spl-token", "label", "message", "memo")


class TransferRequestError(ValueError):
    """An address that no wallet would follow; the text names the part that is wrong."""


@dataclass(frozen=True)
class TransferRequest:
    """What a wallet is asked to send."""

    recipient: Pubkey
    amount: str | None
    """In whole coins, as it was written; None leaves it to the payer."""
    spl_token: Pubkey | None
    references: tuple[Pubkey, ...]
    label: str
    message: str
    memo: str


def read_transfer_request(url: str) -> TransferRequest:
    """Read an address; raises TransferRequestError."""
    parts = urlsplit(url)
    if parts.scheme != "solana" or parts.netloc or parts.fragment:
        raise TransferRequestError("url: must look like solana:<recipient>?amount=...")
    query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    given: dict[str, str] = {}
    for name, text in query:
        if name in ONCE and name in given:
            raise TransferRequestError(f"url: {name} stands there twice")
        given.setdefault(name, text)
    amount = given.get("amount")
    if amount is not None and not AMOUNT.fullmatch(amount):
        raise TransferRequestError("url: amount must be plain digits, such as 0.5")
    token = given.get("spl-token")
    return TransferRequest(
        recipient=_address("recipient", parts.path),
        amount=amount,
        spl_token=None if token is None else _address("spl-token", token),
        references=tuple(
            _address("reference", text) for name, text in query if name == "reference"
        ),
        label=given.get("label", ""),
        message=given.get("message", ""),
        memo=given.get("memo", ""),
    )


def base_units(amount: str, decimals: int) -> int:
    """Turn an amount in whole coins into base units; raises TransferRequestError.

    Args:
        amount: plain digits.
        decimals: the coin's.
    """
    if not AMOUNT.fullmatch(amount):
        raise TransferRequestError("amount: must be plain digits, such as 0.5")
    whole, _, fraction = amount.partition(".")
    if len(fraction) > decimals:
        raise TransferRequestError(f"amount: the coin has {decimals} decimals")
    units = int(whole + fraction.ljust(decimals, "0"))
    if units > BASE_UNITS_MAX:
        raise TransferRequestError("amount: is more than there is")
    return units


def _address(name: str, text: str) -> Pubkey:
    try:
        return Pubkey.from_string(text)
    except ValueError as error:
        raise TransferRequestError(f"url: {name} must be a base58 address") from error
