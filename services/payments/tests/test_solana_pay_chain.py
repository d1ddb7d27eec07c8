"""What counts of a transaction, on transactions as nodes tell them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.pubkey import Pubkey

from smartpay_payments.adapters.solana_pay_chain import (
    SYSTEM_PROGRAM,
    TOKEN_PROGRAM,
    ChainUnsureError,
    Compiled,
    TransactionView,
    Wanted,
    token_account,
    transfers_in,
)
from smartpay_sandbox.solana_views import base58

RECIPIENT, PAYER, OTHER, REFERENCE, SECOND, MINT, WALLET_PROGRAM, SOURCE = (
    str(Pubkey(bytes([n]) * 32)) for n in range(1, 9)
)
SOL = Wanted(RECIPIENT, REFERENCE)
USDC = Wanted(RECIPIENT, REFERENCE, MINT)
TOKENS = token_account(RECIPIENT, MINT)
KEYS = [
    *(PAYER, RECIPIENT, TOKENS, SOURCE, OTHER, MINT, REFERENCE, SECOND),
    *(SYSTEM_PROGRAM, TOKEN_PROGRAM, WALLET_PROGRAM),
]


def instruction(program: str, data: bytes, *accounts: str) -> Compiled:
    return {
        "programIdIndex": KEYS.index(program),
        "accounts": [KEYS.index(key) for key in accounts],
        "data": base58(data),
    }


def sol(units: int, *extra: str, source: str = PAYER, to: str = RECIPIENT) -> Compiled:
    data = (2).to_bytes(4, "little") + units.to_bytes(8, "little")
    return instruction(SYSTEM_PROGRAM, data, source, to, *extra)


def tokens(units: int, *extra: str, checked: bool = True, to: str = TOKENS) -> Compiled:
    amount = units.to_bytes(8, "little")
    if checked:
        data = bytes([12]) + amount + bytes([6])
        return instruction(TOKEN_PROGRAM, data, SOURCE, MINT, to, PAYER, *extra)
    return instruction(TOKEN_PROGRAM, bytes([3]) + amount, SOURCE, to, PAYER, *extra)


def outer(*accounts: str) -> Compiled:
    return instruction(WALLET_PROGRAM, b"run", *accounts)


def view(
    *instructions: Compiled,
    gained: int = 0,
    gained_tokens: int = 0,
    inner: dict[int, list[Compiled]] | None = None,
    owner: str = PAYER,
    **meta: Any,
) -> TransactionView:
    """A transaction after which the recipient has so much more than before."""
    balances = [10**9] * len(KEYS)
    after = list(balances)
    after[KEYS.index(RECIPIENT)] += gained

    def held(source: int, tokens: int) -> list[dict[str, Any]]:
        rows = {SOURCE: (owner, source), TOKENS: (RECIPIENT, tokens)}
        return [
            {
                "accountIndex": KEYS.index(account),
                "owner": who,
                "uiTokenAmount": {"amount": str(amount)},
            }
            for account, (who, amount) in rows.items()
        ]

    told = {
        "transaction": {
            "message": {
                "header": {"numRequiredSignatures": 1},
                "accountKeys": KEYS,
                "instructions": list(instructions),
            }
        },
        "meta": {
            "err": None,
            "preBalances": balances,
            "postBalances": after,
            "preTokenBalances": held(10**9, 5),
            "postTokenBalances": held(10**9 - gained_tokens, 5 + gained_tokens),
            "innerInstructions": [
                {"index": index, "instructions": ran} for index, ran in (inner or {}).items()
            ],
            **meta,
        },
    }
    return cast("TransactionView", told)


def counted(told: TransactionView, wanted: Wanted = SOL) -> list[tuple[str, int, str]]:
    return [
        (t.transfer_id.removeprefix("sig:"), t.minor_units, t.payer)
        for t in transfers_in("sig", told, wanted)
    ]


def test_a_transfer_with_the_reference_counts_wherever_it_stands() -> None:
    told = view(outer(), sol(70, REFERENCE), outer(), gained=70)
    assert counted(told) == [("1", 70, PAYER)]


@pytest.mark.parametrize("checked", [True, False])
def test_both_forms_of_a_token_transfer_count_and_the_owner_is_the_payer(checked: bool) -> None:
    told = view(tokens(70, REFERENCE, checked=checked), gained_tokens=70, owner=OTHER)
    assert counted(told, USDC) == [("0", 70, OTHER)]


def test_what_a_program_runs_inside_counts_once_and_by_its_own_reference() -> None:
    inside = {0: [tokens(70, REFERENCE), tokens(5)]}
    told = view(outer(REFERENCE), gained_tokens=75, inner=inside)
    assert counted(told, USDC) == [("0.0", 70, PAYER)]


@pytest.mark.parametrize(
    "told",
    [
        view(sol(70), gained=70),
        view(sol(70), outer(REFERENCE), gained=70),
        view(sol(70, SECOND, REFERENCE), gained=70),
        view(sol(70, REFERENCE, to=OTHER)),
        view(sol(70, REFERENCE), gained=70, err={"InstructionError": [0, "Custom"]}),
        view(sol(70, REFERENCE), gained=0),
        view(sol(70, REFERENCE, source=RECIPIENT), gained=70),
        view(tokens(70, REFERENCE), gained_tokens=70),
        view(outer(REFERENCE), gained=70),
    ],
    ids=[
        "no reference",
        "the reference in another instruction",
        "another reference first",
        "another recipient",
        "failed",
        "nothing arrived",
        "from the recipient itself",
        "tokens instead of SOL",
        "no transfer at all",
    ],
)
def test_nothing_else_counts(told: TransactionView) -> None:
    assert counted(told) == []


def test_lamports_sent_to_the_token_account_are_no_tokens() -> None:
    told = view(sol(70, REFERENCE, to=TOKENS), tokens(70, SECOND), gained_tokens=70)
    assert counted(told, USDC) == []
    assert counted(told, Wanted(RECIPIENT, SECOND, MINT)) == [("1", 70, PAYER)]


def test_a_multisig_s_signers_are_no_references() -> None:
    told = view(tokens(70, PAYER, REFERENCE), gained_tokens=70)
    assert counted(told, USDC) == [("0", 70, PAYER)]


def test_keys_of_lookup_tables_are_read_as_the_node_names_them() -> None:
    told = view(sol(70, REFERENCE), gained=70)
    message = told["transaction"]["message"]
    cut = KEYS.index(REFERENCE)
    message["accountKeys"], rest = KEYS[:cut], KEYS[cut:]
    assert told["meta"] is not None
    told["meta"]["loadedAddresses"] = {"writable": [], "readonly": rest}
    assert counted(told) == [("0", 70, PAYER)]


@given(
    parts=st.lists(
        st.tuples(st.integers(0, 1000), st.sampled_from([REFERENCE, SECOND, ""])), max_size=6
    ),
    taken_back=st.integers(0, 2000),
)
def test_all_references_together_never_count_more_than_what_arrived(
    parts: Sequence[tuple[int, str]], taken_back: int
) -> None:
    gained = max(0, sum(units for units, _ in parts) - taken_back)
    told = view(*(sol(units, *filter(None, [key])) for units, key in parts), gained=gained)
    sums = {
        reference: sum(units for _, units, _ in counted(told, Wanted(RECIPIENT, reference)))
        for reference in (REFERENCE, SECOND)
    }
    assert sum(sums.values()) <= gained
    if not taken_back:
        for reference, total in sums.items():
            assert total == sum(units for units, key in parts if key == reference)


def test_a_transaction_that_makes_no_sense_proves_nothing() -> None:
    told = view(sol(70, REFERENCE), gained=70)
    told["transaction"]["message"]["instructions"][0]["programIdIndex"] = 99
    with pytest.raises(ChainUnsureError, match="unreadable_transaction"):
        counted(told)
