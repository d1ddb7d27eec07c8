from __future__ import annotations

import pytest

from smartpay_assistant.domain.amounts import in_words, mean_minor, percent, probability


@pytest.mark.parametrize(
    ("minor", "currency", "words"),
    [
        (123456, "USD", "1,234.56 USD"),
        (5, "EUR", "0.05 EUR"),
        (0, "USD", "0.00 USD"),
        (-123456, "USD", "-1,234.56 USD"),
        (1235, "JPY", "1,235 JPY"),
        (1234567, "BHD", "1,234.567 BHD"),
        (1_500_000, "USDC", "1.500000 USDC"),
        (2_000_000_001, "SOL", "2.000000001 SOL"),
        (12_345, "CLF", "1.2345 CLF"),
        (9_223_372_036_854_775_807, "USD", "92,233,720,368,547,758.07 USD"),
    ],
)
def test_an_amount_is_written_with_its_currencys_own_places(
    minor: int, currency: str, words: str
) -> None:
    assert in_words(minor, currency) == words


@pytest.mark.parametrize(
    ("total", "count", "mean"), [(10, 4, 3), (10, 3, 3), (11, 3, 4), (7, 1, 7)]
)
def test_a_mean_is_a_whole_number_of_minor_units(total: int, count: int, mean: int) -> None:
    assert mean_minor(total, count) == mean


def test_a_share_is_written_to_a_tenth_of_a_percent() -> None:
    assert [percent(2, 3), percent(0, 5), percent(5, 5)] == ["66.7 %", "0.0 %", "100.0 %"]


def test_a_probability_keeps_its_places() -> None:
    assert probability(0.9376, 3) == "0.938"
    assert probability(1e-9, 3) == "0.000"
