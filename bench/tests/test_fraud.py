"""The bench of the fraud service: what it times, and what it says of it."""

import time

from smartpay_bench.alternating import medians_us
from smartpay_bench.fraud import table


def test_rivals_are_timed_in_turn_and_each_by_its_own_calls() -> None:
    order: list[str] = []

    def slow() -> None:
        order.append("s")
        time.sleep(0.01)

    told = medians_us(
        {"quick": lambda: order.append("q"), "slow": slow},
        calls=3,
        repeats=2,
        slow={"slow": 1},
    )
    assert "".join(order) == "qs" + "qqqs" * 2
    assert told["slow"] > 10_000 > told["quick"]


def test_the_table_names_what_was_missed() -> None:
    said = table({"trees_vs_inplace": 9.5, "request_p50_us": 150.0, "graph_us": 14.0})
    missed, met, plain = said.splitlines()
    assert missed.endswith("at least 10: MISSED")
    assert met.endswith("at most 200")
    assert plain.split() == ["graph_us", "14"]
