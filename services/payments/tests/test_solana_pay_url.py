"""The `solana:` address, read back by the sandbox's wallet, which shares no code with it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.pubkey import Pubkey

from smartpay_payments.adapters.solana_pay_url import TransferRequest, amount_text
from smartpay_sandbox.solana_transfer_request import (
    TransferRequestError,
    base_units,
    read_transfer_request,
)

ADDRESSES = st.binary(min_size=32, max_size=32).map(lambda raw: str(Pubkey(raw)))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
AMOUNTS = st.integers(0, 2**62)
RECIPIENT, REFERENCE, MINT = (str(Pubkey(bytes([n]) * 32)) for n in (1, 2, 3))


@given(AMOUNTS, st.integers(0, 12))
def test_an_amount_is_plain_digits_and_comes_back_whole(units: int, decimals: int) -> None:
    text = amount_text(units, decimals)
    assert re.fullmatch(r"(0|[1-9][0-9]*)(\.[0-9]*[1-9])?", text)
    assert base_units(text, decimals) == units


@pytest.mark.parametrize(
    ("units", "decimals", "text"),
    [
        (0, 6, "0"),
        (1, 0, "1"),
        (1, 9, "0.000000001"),
        (1_500_000, 6, "1.5"),
        (10**18, 9, "1000000000"),
        (100, 2, "1"),
        (1010, 3, "1.01"),
    ],
)
def test_amounts_are_spelled_as_a_person_would(units: int, decimals: int, text: str) -> None:
    assert amount_text(units, decimals) == text


def test_nobody_is_asked_for_less_than_nothing() -> None:
    with pytest.raises(ValueError, match="less than nothing"):
        amount_text(-1, 6)


@given(
    recipient=ADDRESSES,
    units=AMOUNTS,
    decimals=st.integers(0, 9),
    reference=ADDRESSES,
    token=st.none() | ADDRESSES,
    label=TEXTS,
    message=TEXTS,
    memo=TEXTS,
)
def test_a_wallet_reads_what_was_written(
    recipient: str,
    units: int,
    decimals: int,
    reference: str,
    token: str | None,
    label: str,
    message: str,
    memo: str,
) -> None:
    asked = TransferRequest(
        recipient, units, decimals, reference, token or "", label, message, memo
    )
    read = read_transfer_request(asked.url)
    assert str(read.recipient) == recipient
    assert read.amount is not None
    assert base_units(read.amount, decimals) == units
    assert [str(key) for key in read.references] == [reference]
    assert (None if read.spl_token is None else str(read.spl_token)) == token
    assert (read.label, read.message, read.memo) == (label, message, memo)


def test_what_is_not_asked_does_not_stand_in_the_address() -> None:
    url = TransferRequest(RECIPIENT, 5, 9, REFERENCE).url
    assert url == f"solana:{RECIPIENT}?amount=0.000000005&reference={REFERENCE}"


@pytest.mark.parametrize("amount", ["1e3", "-1", ".5", "1.", "01", "", "+1", "1_0", "٣"])
def test_the_wallet_that_reads_it_is_strict(amount: str) -> None:
    with pytest.raises(TransferRequestError, match="amount"):
        read_transfer_request(f"solana:{RECIPIENT}?amount={amount}")
