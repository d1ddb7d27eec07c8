"""The simulator is held to the SDK's annotations; here the holding itself is tested."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import stripe
from stripe.params._payment_intent_create_params import PaymentIntentCreateParams

from smartpay_sandbox.stripe_form import decode_form
from smartpay_sandbox.stripe_refusals import StripeRefusalError
from smartpay_sandbox.stripe_routes import ROUTES, Route
from smartpay_sandbox.stripe_schema import (
    check_response,
    read_request,
    unresolved_request_fields,
    unresolved_response_fields,
)
from smartpay_sandbox.testing import StripeSandbox


@pytest.fixture
async def intent(sandbox: StripeSandbox, charge: Any) -> dict[str, Any]:
    """A real answer of the simulator, with its charge and money movement expanded."""
    found = await sandbox.client().v1.payment_intents.create_async(
        charge(expand=["latest_charge.balance_transaction", "payment_method"])
    )
    body: dict[str, Any] = found.to_dict()
    return body


def test_an_honest_answer_has_nothing_wrong(intent: dict[str, Any]) -> None:
    assert check_response(stripe.PaymentIntent, intent) == []


def put(*path: str) -> Callable[[dict[str, Any], Any], None]:
    def change(body: dict[str, Any], value: Any) -> None:
        for name in path[:-1]:
            body = body[name]
        body[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("status",), "paid", "PaymentIntent.status"),
        (("amount",), "1999", "PaymentIntent.amount"),
        (("amount",), True, "PaymentIntent.amount"),
        (("livemode",), 0, "PaymentIntent.livemode"),
        (("object",), "charge", "PaymentIntent.object"),
        (("currency",), None, "PaymentIntent.currency"),
        (("capture_method",), "later", "PaymentIntent.capture_method"),
        (("colour",), "red", "PaymentIntent.colour: unknown field"),
        (("metadata",), {"a": 1}, "PaymentIntent.metadata.a"),
        (("payment_method_types",), "card", "PaymentIntent.payment_method_types"),
        (("latest_charge", "status"), "done", "PaymentIntent.latest_charge.status"),
        (("latest_charge", "outcome", "advice_code"), "wait", "latest_charge.outcome.advice_code"),
        (("latest_charge", "balance_transaction", "fee"), 0.88, "balance_transaction.fee"),
        (("payment_method", "card", "exp_year"), "2034", "PaymentIntent.payment_method.card"),
    ],
)
def test_a_mutant_answer_is_caught(
    intent: dict[str, Any], path: tuple[str, ...], value: Any, told: str
) -> None:
    mutant = copy.deepcopy(intent)
    put(*path)(mutant, value)

    (complaint,) = check_response(stripe.PaymentIntent, mutant)

    assert told in complaint


@pytest.mark.parametrize("name", ["id", "status", "created", "metadata", "payment_method_types"])
def test_an_answer_lacking_a_field_is_caught(intent: dict[str, Any], name: str) -> None:
    mutant = {key: value for key, value in intent.items() if key != name}
    assert check_response(stripe.PaymentIntent, mutant) == [f"PaymentIntent.{name}: missing"]


def test_a_list_is_checked_entry_by_entry(intent: dict[str, Any]) -> None:
    page = {"object": "list", "data": [intent], "has_more": False, "url": "/v1/payment_intents"}
    shape = stripe.ListObject[stripe.PaymentIntent]
    assert check_response(shape, page) == []
    assert check_response(shape, {**page, "data": [{**intent, "amount": None}]}) != []
    assert check_response(shape, {**page, "has_more": None}) != []


async def test_a_dishonest_simulator_answers_500_and_is_told_on(
    sandbox: StripeSandbox, charge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smartpay_sandbox import stripe_objects

    honest = stripe_objects.payment_intent

    def dishonest(*arguments: Any) -> dict[str, Any]:
        return honest(*arguments) | {"confirmation_method": "never"}

    monkeypatch.setattr(stripe_objects, "payment_intent", dishonest)
    with pytest.raises(stripe.APIError, match="confirmation_method"):
        await sandbox.client().v1.payment_intents.create_async(charge())

    (told,) = sandbox.simulator.dump()["violations"]
    assert "PaymentIntent.confirmation_method" in told
    assert sandbox.account()["payment_intents"] == {}
    sandbox.simulator.reset()


@pytest.mark.parametrize("route", ROUTES.values(), ids=map(str, ROUTES))
def test_every_annotation_of_every_endpoint_is_understood(route: Route) -> None:
    assert unresolved_request_fields(route.params) == []
    assert unresolved_response_fields(route.answers) == []


@pytest.mark.parametrize("route", ROUTES.values(), ids=map(str, ROUTES))
def test_every_simulated_parameter_is_one_of_stripes(route: Route) -> None:
    assert route.simulated <= set(route.params.__annotations__)


def test_a_form_gets_its_types_from_the_annotations() -> None:
    form = decode_form(
        "amount=5&currency=usd&confirm=true&metadata[a]=1&expand[0]=x&expand[1]=y"
        "&automatic_payment_methods[enabled]=false&off_session=one_off"
    )
    assert read_request(PaymentIntentCreateParams, form) == {
        "amount": 5,
        "currency": "usd",
        "confirm": True,
        "metadata": {"a": "1"},
        "expand": ["x", "y"],
        "automatic_payment_methods": {"enabled": False},
        "off_session": "one_off",
    }


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ("amount=5", "currency"),
        ("amount=5&currency=usd&confirm=1", "confirm"),
        ("amount=5&currency=usd&metadata=1", "metadata"),
        ("amount=5&currency=usd&metadata[a][b]=1", "metadata[a]"),
        ("amount=5&currency=usd&expand=x", "expand"),
        ("amount[a]=5&currency=usd", "amount"),
        ("amount=5&currency=usd&off_session=maybe", "off_session"),
        ("amount=5&currency=usd&shipping[address][planet]=x&shipping[name]=x",
         "shipping[address][planet]"),
        ("amount=5&currency=usd&api_key=sk_test_1", "api_key"),
        ("amount=5&amount=6&currency=usd", "amount"),
        ("amount=5&currency=usd&metadata[a]=1&metadata[a]=2", "metadata[a]"),
    ],
)  # fmt: skip
def test_a_mutant_request_is_caught(form: str, param: str) -> None:
    with pytest.raises(StripeRefusalError) as refused:
        read_request(PaymentIntentCreateParams, decode_form(form))
    assert refused.value.error["param"] == param
