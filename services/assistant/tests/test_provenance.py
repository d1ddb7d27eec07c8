from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartpay_assistant.domain.metrics import Filters, Metric, MetricQuery, Period
from smartpay_assistant.domain.plan import Plan, QueryMetrics
from smartpay_assistant.domain.provenance import check
from smartpay_assistant.domain.tools import Fact, ToolResult
from smartpay_chassis.refusals import Kind, Refusal

QUESTION = "How much did I take in the last 7 days?"
STEP = QueryMetrics(
    MetricQuery(
        (Metric.VOLUME,),
        filters=Filters(period=Period(date(2026, 11, 16), date(2026, 11, 22), "")),
    )
)
PLAN = Plan("test", (STEP,))
RESULT = ToolResult(
    STEP,
    0,
    {"rows": ({"volume": Fact("1,234.56 USD", ("pay_1",)), "day": Fact("2026-11-20", (), False)},)},
)
VOLUME = "{{query_metrics[0].rows[0].volume}}"
DAY = "{{query_metrics[0].rows[0].day}}"


def test_a_placeholder_becomes_the_tools_figure_and_is_cited() -> None:
    checked = check(f"You took {VOLUME}, I say {VOLUME}.", QUESTION, PLAN, [RESULT])

    assert checked.text == "You took 1,234.56 USD, I say 1,234.56 USD."
    (citation,) = checked.citations
    assert (citation.text, citation.source) == ("1,234.56 USD", "query_metrics[0].rows[0].volume")
    assert citation.payment_ids == ("pay_1",)


def test_what_only_names_a_row_is_not_cited() -> None:
    assert check(f"On {DAY}.", QUESTION, PLAN, [RESULT]).citations == ()


def test_numerals_of_the_question_and_days_of_the_plan_may_be_repeated() -> None:
    draft = "In the last 7 days (2026-11-16 to 2026-11-22), nothing."

    assert check(draft, QUESTION, PLAN, [RESULT]).text == draft


@pytest.mark.parametrize(
    "draft",
    [
        "You took 1,234.56 USD.",
        "You took 8 USD.",
        f"You took 9{VOLUME}.",
        f"You took {VOLUME}9.",
        "You took 77 USD.",
        "It was on 2026-11-17.",
        "You took \u0663 dinars.",
        "You took \u00bd dollar.",
        "You took \u2166 dollars.",
        "You took \uff17 dollars.",
        "7x more",
        "{{query_metrics[0].rows[1].volume}}",
        "{{query_metrics[1].rows[0].volume}}",
        "{{secret}}",
        "{{query_metrics[0]",
        "{{{{query_metrics[0].rows[0].volume}}}}",
    ],
)
def test_an_invented_figure_or_source_is_refused(draft: str) -> None:
    with pytest.raises(Refusal) as refused:
        check(draft, QUESTION, PLAN, [RESULT])

    assert (refused.value.kind, refused.value.reason) == (Kind.INTERNAL, "INTERNAL")
    assert not any(letter.isnumeric() for letter in refused.value.message)


def test_a_placeholder_inside_a_fact_is_not_filled_again() -> None:
    tricky = ToolResult(STEP, 0, {"rows": ({"volume": Fact(DAY), "day": Fact("2026")},)})

    assert check(VOLUME, QUESTION, PLAN, [tricky]).text == DAY


@given(st.text(max_size=80))
@settings(deadline=None, derandomize=True)
def test_no_text_gets_a_foreign_numeral_past_the_check(text: str) -> None:
    try:
        shown = check(text, "no numerals here", Plan("test"), []).text
    except Refusal:
        return
    assert not any(letter.isnumeric() for letter in shown)
