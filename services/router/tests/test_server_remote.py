"""A learner elsewhere estimates; everything else stays here."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import numpy as np
import pytest

from smartpay.router.v1 import policies_pb2, router_pb2
from smartpay.router.v1.policies_pb2 import RoutingPolicyTerms
from smartpay.router.v1.policies_pb2_grpc import RoutingPoliciesServiceStub
from smartpay.router.v1.router_pb2_grpc import RouterServiceStub
from smartpay.type.v1.instrument_pb2 import Instrument, ProcessorToken
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.testing import DEMO_ACCOUNTS, as_merchant
from smartpay_router.domain.learner import Arm, Estimates
from smartpay_router.domain.schema import Values

FIRST, SECOND = DEMO_ACCOUNTS
BELIEFS = {FIRST: 0.3, SECOND: 0.97}
CHARGE = router_pb2.DecideRequest(
    amount=Money(minor_units=2500, currency_code="USD"),
    instrument=Instrument(
        tokens=[ProcessorToken(processor_account_id=a, token="pm") for a in DEMO_ACCOUNTS]
    ),
)


class Elsewhere:
    """Believes in the second account, and counts who asks."""

    def __init__(self) -> None:
        self.asked = 0

    async def ask(self, arms: Sequence[Arm], values: Values, at: float) -> Estimates:
        self.asked += 1
        success = np.array([BELIEFS[arm.account] for arm in arms])
        return Estimates.of(success, np.zeros(len(arms)), [40] * len(arms))


@pytest.fixture
def remote() -> Elsewhere:
    return Elsewhere()


async def test_a_decision_is_made_by_what_the_learner_elsewhere_believes(
    channel: grpc.aio.Channel, remote: Elsewhere
) -> None:
    router = RouterServiceStub(channel)
    decision = (await router.Decide(CHARGE, metadata=as_merchant())).decision
    told = {r.processor_account_id: r.expected_success for r in decision.ranking}
    assert told == BELIEFS
    assert decision.ranking[0].processor_account_id == SECOND
    assert remote.asked == 1


async def test_nobody_elsewhere_is_asked_for_nothing_or_under_the_kill_switch(
    channel: grpc.aio.Channel, remote: Elsewhere
) -> None:
    router = RouterServiceStub(channel)
    nobody = router_pb2.DecideRequest()
    nobody.CopyFrom(CHARGE)
    nobody.amount.currency_code = "SOL"
    assert not (await router.Decide(nobody, metadata=as_merchant())).decision.ranking
    terms = RoutingPolicyTerms(mode=RoutingPolicyTerms.MODE_LIVE, kill_switch=True)
    await RoutingPoliciesServiceStub(channel).UpdateRoutingPolicy(
        policies_pb2.UpdateRoutingPolicyRequest(etag='"1"', terms=terms), metadata=as_merchant()
    )
    decision = (await router.Decide(CHARGE, metadata=as_merchant())).decision
    assert decision.ranking[0].processor_account_id == FIRST
    assert remote.asked == 0
