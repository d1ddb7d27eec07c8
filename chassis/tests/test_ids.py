"""Ids: their grammar, and what they are derived from."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from smartpay_chassis import ids

PREFIXES = st.sampled_from(["mer", "pay", "dec", "pac", "ref"])
CELLS = st.from_regex(r"[a-z][0-9]", fullmatch=True)
PARTS = st.lists(st.text())


@given(PREFIXES, CELLS, PARTS)
def test_every_id_follows_the_grammar_and_knows_its_cell(
    prefix: str, cell: str, parts: list[str]
) -> None:
    for identifier in (ids.derive(prefix, cell, *parts), ids.new(prefix, cell)):
        assert ids.is_id(identifier)
        assert identifier.startswith(f"{prefix}_{cell}")
        assert len(identifier) == 30
        assert ids.cell_of(identifier) == cell


def test_derived_ids_never_change() -> None:
    # Stored payments are found again by these; another result here is a broken promise.
    assert (
        ids.derive("pay", "d1", "mer_1", "test", "CreatePayment", "key")
        == "pay_d1htabngqzsd891gsbgkys7ce9"
    )


@given(PARTS, PARTS)
def test_other_parts_lead_to_another_id(parts: list[str], others: list[str]) -> None:
    assume(parts != others)
    assert ids.derive("pay", "d1", *parts) != ids.derive("pay", "d1", *others)


def test_where_a_part_ends_matters() -> None:
    spellings = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc")]
    assert len({ids.derive("pay", "d1", *parts) for parts in spellings}) == len(spellings)


def test_new_ids_differ() -> None:
    assert len({ids.new("ref", "d1") for _ in range(1000)}) == 1000


BODY = "0" * 24


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"pay_d1{BODY}0",
        f"pay_d1{BODY[1:]}",
        f"pay_1d{BODY}",
        f"PAY_d1{BODY}",
        f"payd1{BODY}0",
        f"pay_d1{BODY[1:]}A",
        *(f"pay_d1{BODY[1:]}{letter}" for letter in "ilou"),
        f"pay_d1{BODY}\n",
        f" pay_d1{BODY}",
    ],
)
def test_what_is_no_id_has_no_cell(text: str) -> None:
    assert not ids.is_id(text)
    with pytest.raises(ValueError, match="not an id"):
        ids.cell_of(text)
