"""Page tokens and sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartpay_chassis.pages import (
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_MAX,
    decode_page_token,
    encode_page_token,
    page_size,
)
from smartpay_chassis.refusals import Kind, Refusal

FILTERS = "ListPayments mer_1 status=failed"


def refusal_of(token: str, bound_to: str = FILTERS) -> Refusal:
    with pytest.raises(Refusal) as caught:
        decode_page_token(token, bound_to=bound_to)
    return caught.value


@given(st.text())
def test_a_token_leads_back_to_its_position(position: str) -> None:
    token = encode_page_token(position, bound_to=FILTERS)
    assert decode_page_token(token, bound_to=FILTERS) == position
    assert token.isascii()
    assert "=" not in token


def test_a_token_is_refused_with_other_filters_and_for_another_tenant() -> None:
    token = encode_page_token("17", bound_to=FILTERS)
    for other in ("ListPayments mer_1", "ListPayments mer_2 status=failed", ""):
        refusal = refusal_of(token, other)
        assert (refusal.kind, refusal.reason) == (Kind.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")
        assert refusal.field == "page_token"


@given(st.text())
def test_any_garbage_is_refused(garbage: str) -> None:
    assert refusal_of(garbage).reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize(
    ("requested", "size"),
    [
        (0, PAGE_SIZE_DEFAULT),
        (-1, PAGE_SIZE_DEFAULT),
        (1, 1),
        (PAGE_SIZE_MAX, PAGE_SIZE_MAX),
        (PAGE_SIZE_MAX + 1, PAGE_SIZE_MAX),
    ],
)
def test_a_page_has_the_size_asked_for_up_to_the_most(requested: int, size: int) -> None:
    assert page_size(requested) == size
