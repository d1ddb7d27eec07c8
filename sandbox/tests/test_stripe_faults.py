from __future__ import annotations

import asyncio
from typing import Any

import pytest
import stripe

from smartpay_sandbox.faults import FaultRuleError, Faults
from smartpay_sandbox.testing import StripeSandbox

KEY: Any = {"idempotency_key": "k"}


async def test_a_dropped_answer_was_executed_and_its_key_replays_it(
    sandbox: StripeSandbox, charge: Any
) -> None:
    client = sandbox.client()
    sandbox.simulator.set_faults([{"kind": "drop_after_commit", "times": 1}])
    with pytest.raises(stripe.APIConnectionError):
        await client.v1.payment_intents.create_async(charge(), KEY)
    (executed,) = sandbox.account()["payment_intents"]

    replayed = await client.v1.payment_intents.create_async(charge(), KEY)

    assert replayed.id == executed
    assert len(sandbox.account()["charges"]) == 1


async def test_a_slow_request_commits_though_its_caller_gave_up(
    sandbox: StripeSandbox, charge: Any
) -> None:
    sandbox.simulator.set_faults([{"kind": "slow", "delay_ms": 30_000, "times": 1}])
    impatient = sandbox.client(timeout_seconds=0.1)
    with pytest.raises(stripe.APIConnectionError):
        await impatient.v1.payment_intents.create_async(charge(), KEY)
    assert sandbox.account()["payment_intents"] == {}, "the wait comes before the commit"

    sandbox.clock.advance(30)
    while not sandbox.account()["payment_intents"]:
        await asyncio.sleep(0)
    replayed = await sandbox.client().v1.payment_intents.create_async(charge(), KEY)
    assert [replayed.id] == list(sandbox.account()["payment_intents"])


async def test_an_error_before_execution_leaves_nothing(
    sandbox: StripeSandbox, charge: Any
) -> None:
    client = sandbox.client()
    sandbox.simulator.set_faults([{"kind": "error_before", "times": 1}])
    with pytest.raises(stripe.APIError) as failed:
        await client.v1.payment_intents.create_async(charge(), KEY)
    assert failed.value.http_status == 500
    assert sandbox.account()["payment_intents"] == {}

    intent = await client.v1.payment_intents.create_async(charge(), KEY)
    assert intent.status == "succeeded"


async def test_an_error_after_execution_burns_the_key_though_money_moved(
    sandbox: StripeSandbox, charge: Any
) -> None:
    client = sandbox.client()
    sandbox.simulator.set_faults([{"kind": "error_after", "times": 1}])
    for replayed in (None, "true"):
        with pytest.raises(stripe.APIError) as failed:
            await client.v1.payment_intents.create_async(charge(metadata={"a": "1"}), KEY)
        assert failed.value.http_status == 500
        assert failed.value.headers is not None
        assert failed.value.headers.get("Idempotent-Replayed") == replayed

    listed = await client.v1.payment_intents.list_async()
    assert [(intent.status, intent.metadata["a"]) for intent in listed.data] == [("succeeded", "1")]


async def test_a_rule_touches_only_its_account_method_and_path(
    sandbox: StripeSandbox, charge: Any
) -> None:
    sandbox.simulator.set_faults(
        [
            {
                "kind": "error_before",
                "account": "acct_second",
                "method": "POST",
                "path_prefix": "/v1/payment_intents",
            }
        ]
    )
    assert (await sandbox.client().v1.payment_intents.create_async(charge())).status == "succeeded"
    second = sandbox.client("sk_test_second")
    assert (await second.v1.payment_intents.list_async()).data == []
    with pytest.raises(stripe.APIError):
        await second.v1.payment_intents.create_async(charge())
    sandbox.simulator.clear_faults()
    assert (await second.v1.payment_intents.create_async(charge())).status == "succeeded"


def troubles(seed: int) -> list[str | None]:
    faults = Faults()
    faults.set([{"kind": "error_after", "probability": 0.5, "seed": seed}])
    return [faults.meet("acct_1", "POST", "/v1/refunds").breakage for _ in range(64)]


def test_the_same_seed_brings_the_same_faults() -> None:
    assert troubles(7) == troubles(7)
    assert troubles(7) != troubles(8)
    assert 10 < troubles(7).count("error_after") < 54


def test_waits_add_up_and_the_first_breakage_wins() -> None:
    faults = Faults()
    faults.set(
        [
            {"kind": "slow", "delay_ms": 5},
            {"kind": "slow", "delay_ms": 7, "when": "after"},
            {"kind": "drop_after_commit", "times": 1},
            {"kind": "error_after"},
        ]
    )
    first, second = (faults.meet("a", "POST", "/") for _ in range(2))
    assert (first.wait_before_ms, first.wait_after_ms) == (5, 7)
    assert (first.breakage, second.breakage) == ("drop_after_commit", "error_after")
    assert [rule["fired"] for rule in faults.dump()] == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ({}, "kind"),
        ({"kind": "explode"}, "kind"),
        ({"kind": "slow"}, "delay_ms"),
        ({"kind": "slow", "delay_ms": True}, "delay_ms"),
        ({"kind": "slow", "delay_ms": 9, "when": "later"}, "when"),
        ({"kind": "error_after", "delay_ms": 9}, "delay_ms"),
        ({"kind": "error_after", "probability": 1.5}, "probability"),
        ({"kind": "error_after", "times": 0}, "times"),
        ({"kind": "error_after", "acount": "acct_1"}, "acount"),
    ],
)
def test_a_wrong_rule_is_refused_by_field_and_the_old_ones_stay(
    rule: dict[str, Any], name: str
) -> None:
    faults = Faults()
    faults.set([{"kind": "rate_limit"}])
    with pytest.raises(FaultRuleError) as refused:
        faults.set([{"kind": "rate_limit"}, rule])
    assert refused.value.field == f"rules[1].{name}"
    assert len(faults.dump()) == 1
