"""Our `solana:` addresses, read by the code that wallets use: npm's @solana/pay."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest
from solders.pubkey import Pubkey

from smartpay_payments.adapters.solana_pay_url import TransferRequest
from smartpay_sandbox.solana_transfer_request import (
    TransferRequestError,
    read_transfer_request,
)

Oracle = Callable[[str, dict[str, Any]], Awaitable[Any]]

SCRIPT = "solana_pay.js"
EXACT_MAX = 10**15
"""@solana/pay reads amounts as JavaScript's floats, which are exact so far."""
RECIPIENT = str(Pubkey(bytes([1]) * 32))
TEXTS = ("", "two rolls & coffee", "50% + 1 = ?", "ü ✓ 日本", "a#b/c:d;e", '"quoted"', " ")


def asked(dice: random.Random) -> TransferRequest:
    decimals = dice.randint(0, 9)
    return TransferRequest(
        recipient=str(Pubkey(dice.randbytes(32))),
        base_units=dice.randint(0, 10 ** dice.randint(0, 15)),
        decimals=decimals,
        reference=str(Pubkey(dice.randbytes(32))),
        spl_token=dice.choice(["", str(Pubkey(dice.randbytes(32)))]),
        label=dice.choice(TEXTS),
        message=dice.choice(TEXTS),
        memo=dice.choice(TEXTS),
    )


async def test_the_official_library_reads_what_we_ask(oracle: Oracle) -> None:
    dice = random.Random(1)
    requests = [asked(dice) for _ in range(500)]
    told = await oracle(SCRIPT, {"urls": [request.url for request in requests]})
    assert len(told) == len(requests)
    for request, read in zip(requests, told, strict=True):
        assert request.base_units <= EXACT_MAX
        amount = Decimal(repr(read["amount"]))
        assert amount.scaleb(request.decimals) == request.base_units
        assert read["recipient"] == request.recipient
        assert read["reference"] == [request.reference]
        for name, text in (
            ("splToken", request.spl_token),
            ("label", request.label),
            ("message", request.message),
            ("memo", request.memo),
        ):
            assert read.get(name, "") == text, (name, request.url)


async def test_our_wallet_reads_what_the_official_library_asks(oracle: Oracle) -> None:
    dice = random.Random(2)
    requests = [asked(dice) for _ in range(200)]
    told = await oracle(SCRIPT, {"urls": [request.url for request in requests]})
    for request, read in zip(requests, told, strict=True):
        again = read_transfer_request(read["again"])
        assert again.amount is not None
        # It writes floats out, with digits beyond what the coin has.
        assert round(Decimal(again.amount).scaleb(request.decimals)) == request.base_units
        assert [str(key) for key in again.references] == [request.reference]
        assert (again.label, again.message, again.memo) == (
            request.label,
            request.message,
            request.memo,
        )


REFUSED = (
    *(
        f"solana:{RECIPIENT}?amount={amount}"
        for amount in ("1e3", "-1", ".5", "1.", "", "0x1", "1,5", "NaN", "Infinity")
    ),
    "solana:shop?amount=1",
    f"solana:{RECIPIENT}?amount=1&spl-token=x",
    f"solana:{RECIPIENT}?amount=1&reference=x",
    f"bitcoin:{RECIPIENT}?amount=1",
)


async def test_what_the_official_library_refuses_our_wallet_refuses(oracle: Oracle) -> None:
    told = await oracle(SCRIPT, {"urls": REFUSED})
    assert [url for url, read in zip(REFUSED, told, strict=True) if "refused" not in read] == []
    for url in REFUSED:
        with pytest.raises(TransferRequestError):
            read_transfer_request(url)
