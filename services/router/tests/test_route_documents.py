from __future__ import annotations

import json
from dataclasses import replace

from smartpay_router.adapters.route_documents import route_document, route_of
from smartpay_router.domain.breakers import State
from smartpay_router.domain.context import Context
from smartpay_router.domain.decision import Decision
from smartpay_router.domain.eligibility import Exclusion
from smartpay_router.domain.modes import ServedBy
from smartpay_router.domain.policy import Mode


def test_a_route_is_read_as_it_was_written(decision: Decision) -> None:
    first, second = decision.route.ranking
    route = replace(
        decision.route,
        ranking=(
            replace(first, width=0.1 + 0.2, upper_bound=1.0, breaker=State.OPEN),
            replace(second, expected_value=1 / 3),
        ),
        excluded=(Exclusion("pac_x", "NO_TOKEN", "No token.", 68, ("A", "B"), "solana", 7),),
        served_by=ServedBy.HOLDOUT,
        routing_policy_version=3,
        mode=Mode.CANARY,
        alternative="pac_y",
        matched_rules=("A",),
        static_order=("pac_x", "pac_y"),
        payer="0123",
        risk=0.1,
        country="DE",
        off_session=True,
    )
    assert route_of(route_document(route)) == route


def test_a_route_of_the_first_release_is_still_read() -> None:
    document = {
        "ranking": [
            {
                "processor_account_id": "pac_1",
                "processor": "stripe",
                "expected_success": 0.9,
                "fee_minor": 103,
                "score": 0.86,
                "propensity": 1.0,
                "reasons": ["It was the best."],
            }
        ],
        "excluded": [{"processor_account_id": "pac_2", "code": "NO_TOKEN", "message": "None."}],
        "policy_version": "river-linucb-7",
        "explored": False,
        "context": {"schema": "charge-1", "values": [1.0, 0.5]},
    }
    route = route_of(json.dumps(document))
    assert route.ranking[0].reasons == ("It was the best.",)
    assert route.excluded == (Exclusion("pac_2", "NO_TOKEN", "None."),)
    assert route.context == Context("charge-1", (1.0, 0.5))
    assert (route.served_by, route.routing_policy_version) == (ServedBy.NOBODY, 0)
