"""Card numbers are found however they are written; what merely has many digits is not."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from smartpay_chassis import ids
from smartpay_chassis.card_numbers import holds_card_number

# Ranges as the networks publish them, spelled out apart from the code under test.
NETWORKS = {
    "Visa": (["4"], [13, 16, 19]),
    "Mastercard": (
        [
            *[
                "51",
                "52",
                "53",
                "54",
                "55",
                "2221",
                "2229",
                "223",
                "229",
                "23",
                "26",
                "270",
                "271",
                "2720",
            ]
        ],
        [16],
    ),
    "American Express": (["34", "37"], [15]),
    "Discover": (["6011", "644", "649", "65"], [16, 19]),
    "Diners Club": (["300", "305", "309", "36", "38", "39"], [14, 19]),
    "JCB": (["3528", "3529", "353", "358"], [16, 19]),
    "UnionPay": (["62", "81"], [16, 19]),
    "Maestro": (["5018", "5020", "5038", "5893", "6304", "6759", "6761", "6763"], [13, 19]),
}
RANGES = [
    (prefix, length)
    for prefixes, lengths in NETWORKS.values()
    for prefix in prefixes
    for length in lengths
]


def luhn_sum(digits: str) -> int:
    """Sums as ISO/IEC 7812-1 says; a card number's sum ends with 0."""
    doubled = "0246813579"
    return sum(
        int(doubled[int(digit)] if place % 2 else digit)
        for place, digit in enumerate(reversed(digits))
    )


def with_check_digit(digits: str) -> str:
    return digits + str(-luhn_sum(digits + "0") % 10)


@st.composite
def card_numbers(draw: st.DrawFn) -> str:
    prefix, length = draw(st.sampled_from(RANGES))
    free = length - len(prefix) - 1
    middle = draw(st.text("0123456789", min_size=free, max_size=free))
    return with_check_digit(prefix + middle)


@st.composite
def written_card_numbers(draw: st.DrawFn) -> str:
    """Writes a card number in groups, as people do."""
    digits = draw(card_numbers())
    separator = draw(st.sampled_from(["", " ", "-", "."]))
    ends = draw(st.sets(st.integers(1, len(digits) - 1), max_size=6))
    return "".join(
        separator + digit if place in ends else digit for place, digit in enumerate(digits)
    )


WORDS = st.text("abc ,:;/#\n", max_size=8)


@given(card_numbers(), st.sampled_from(["", " ", "-"]))
def test_card_numbers_of_each_network_are_found(number: str, separator: str) -> None:
    assert holds_card_number(number)
    assert holds_card_number(separator.join(number))


@given(written_card_numbers(), WORDS, WORDS)
def test_a_card_number_in_the_middle_of_a_text_is_found(
    written: str, before: str, after: str
) -> None:
    assert holds_card_number(f"{before}{written}{after}")


@given(
    written_card_numbers(),
    st.text("0123456789", min_size=1, max_size=8),
    st.text("0123456789", min_size=1, max_size=8),
)
def test_a_card_number_beside_other_digits_is_found(written: str, before: str, after: str) -> None:
    assert holds_card_number(f"{before} {written} {after}")


@given(card_numbers(), st.integers(0, 12), st.integers(1, 9))
def test_a_card_number_with_one_wrong_digit_is_none(number: str, place: int, more: int) -> None:
    wrong = str((int(number[place]) + more) % 10)
    assert not holds_card_number(number[:place] + wrong + number[place + 1 :])


@given(st.text("0123456789", min_size=13, max_size=13))
def test_an_order_number_that_fails_luhn_is_no_card_number(number: str) -> None:
    assume(luhn_sum(number) % 10 != 0)
    assert not holds_card_number(number)
    assert not holds_card_number(f"order {number}")


@given(st.text("0123456789", max_size=12))
def test_a_short_number_is_no_card_number(number: str) -> None:
    assert not holds_card_number(number)


@given(st.sampled_from("0179"), st.text("0123456789", min_size=14, max_size=14))
def test_a_number_of_no_network_is_no_card_number(first: str, middle: str) -> None:
    assert not holds_card_number(with_check_digit(first + middle))


@given(st.lists(st.text()))
def test_our_own_ids_are_no_card_numbers(parts: list[str]) -> None:
    assert not holds_card_number(ids.derive("pay", "d1", *parts))


def test_an_id_is_exempt_only_as_the_whole_text() -> None:
    unlucky = "pay_d1x" + "4242424242424242" + "x" * 7
    assert ids.is_id(unlucky)
    assert not holds_card_number(unlucky)
    assert holds_card_number(f"{unlucky}, please")


def test_a_card_number_in_other_digits_or_behind_other_spaces_is_found() -> None:
    fullwidth = "".join(chr(ord(digit) - ord("0") + 0xFF10) for digit in "4242424242424242")
    assert holds_card_number(fullwidth)
    assert holds_card_number("4242\u00a04242\u2009\u20094242\t4242")


def test_a_card_number_of_few_signs_that_stand_for_many_digits_is_found() -> None:
    assert holds_card_number("\u32b7" * 8), "a circled forty-two, eight times"
