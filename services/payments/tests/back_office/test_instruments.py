from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from smartpay.payments.v1 import customers_pb2, instruments_pb2
from smartpay.type.v1 import instrument_pb2
from smartpay_chassis.refusals import Refusal
from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT, OTHER_ACCOUNT, OTHER_MERCHANT
from smartpay_payments.domain.instruments import check_processors, with_instrument

P = instruments_pb2
S = P.SavedToken
FIRST, SECOND = DEMO_ACCOUNTS


@pytest.fixture
async def customer(office: Any) -> str:
    request = customers_pb2.CreateCustomerRequest(customer_id="ada-7")
    made = await office.ask(office.customers.CreateCustomer, request, "customer")
    return str(made.customer.customer_id)


def wanted(customer: str, *tokens: tuple[str, str], **more: Any) -> P.CreateInstrumentRequest:
    given = [
        instrument_pb2.ProcessorToken(processor_account_id=a, token=t)
        for a, t in tokens or ((FIRST, "pm_1"),)
    ]
    instrument = instrument_pb2.Instrument(tokens=given, fingerprint="f")
    return P.CreateInstrumentRequest(customer_id=customer, instrument=instrument, **more)


async def save(office: Any, request: Any, key: str = "k") -> Any:
    return (await office.ask(office.instruments.CreateInstrument, request, key)).instrument


async def confirm(office: Any, instrument: Any) -> Any:
    request = P.ConfirmInstrumentRequest(instrument_id=instrument.instrument_id)
    return (await office.ask(office.instruments.ConfirmInstrument, request)).instrument


def statuses(instrument: Any) -> list[str]:
    return [S.Status.Name(t.status).removeprefix("STATUS_") for t in instrument.tokens]


async def chargeable(office: Any, instrument: Any, away: bool = False) -> Any:
    return await office.setup.chargeable(
        DEMO_MERCHANT.merchant_id, False, instrument.instrument_id, payer_is_away=away
    )


async def test_tokens_are_set_up_at_each_account_for_one_payer_there(
    office: Any, customer: str
) -> None:
    request = wanted(customer, (FIRST, "pm_1"), (SECOND, "pm_2"), off_session=True)
    response, headers = await office.headers(office.instruments.CreateInstrument, request, "k")
    assert statuses(response.instrument) == ["READY", "READY"]
    assert headers["x-http-status"] == "201"
    assert office.vault.attached == {"pm_1", "pm_2"}
    found = await chargeable(office, response.instrument, away=True)
    assert found.tokens == {FIRST: "pm_1", SECOND: "pm_2"}
    assert found.payers.keys() == {FIRST, SECOND}
    assert (found.fingerprint, found.customer_id) == ("f", customer)


async def test_a_payer_who_must_act_is_told_where_and_asked_about_after(
    office: Any, customer: str
) -> None:
    office.vault.script = ["ok", "action"]
    request = wanted(customer, off_session=True)
    response, headers = await office.headers(office.instruments.CreateInstrument, request, "k")
    asked = response.instrument
    assert headers["x-http-status"] == "202"
    assert statuses(asked) == ["REQUIRES_ACTION"]
    assert asked.tokens[0].next_action.redirect_to_url.url == "https://bank.test/3ds"
    with pytest.raises(Refusal, match="No token"):
        await chargeable(office, asked, away=True)
    assert statuses(await confirm(office, asked)) == ["REQUIRES_ACTION"], "too early"
    office.vault.payer_acts()
    ready = await confirm(office, asked)
    assert statuses(ready) == ["READY"]
    assert not ready.tokens[0].HasField("next_action")


@pytest.mark.parametrize("word", ["lost_before", "lost_after"])
@pytest.mark.parametrize("calls_before", [0, 1])
async def test_an_answer_that_is_lost_is_asked_for_again_under_the_same_key(
    office: Any, customer: str, word: str, calls_before: int
) -> None:
    office.vault.script = ["ok"] * calls_before + [word]
    asked = await save(office, wanted(customer))
    assert statuses(asked) == ["SETTING_UP"]
    assert statuses(await confirm(office, asked)) == ["READY"]
    assert len(set(office.vault.keys)) == 1
    assert len(office.vault.payers) == 1
    assert len(office.vault.setups) == 1


async def test_a_key_that_processors_forgot_is_never_sent_again(office: Any, customer: str) -> None:
    office.vault.script = ["ok", "lost_before"]
    asked = await save(office, wanted(customer))
    office.story.clock.advance(hours=24)
    assert statuses(await confirm(office, asked)) == ["READY"]
    first, second = office.vault.keys
    assert first != second


async def test_a_declined_token_is_told_and_the_others_are_charged(
    office: Any, customer: str
) -> None:
    office.vault.script = ["ok", "ok", "declined"]
    made = await save(office, wanted(customer, (FIRST, "pm_1"), (SECOND, "pm_2")))
    assert sorted(statuses(made)) == ["FAILED", "READY"]
    failed = next(t for t in made.tokens if t.status == S.STATUS_FAILED)
    assert failed.failure_code == "stolen_card"
    found = await chargeable(office, made)
    assert list(found.tokens) == [a for a in DEMO_ACCOUNTS if a != failed.processor_account_id]


async def test_without_the_payer_only_what_was_set_up_for_it_is_charged(
    office: Any, customer: str
) -> None:
    made = await save(office, wanted(customer))
    assert (await chargeable(office, made)).tokens == {FIRST: "pm_1"}
    with pytest.raises(Refusal) as refused:
        await chargeable(office, made, away=True)
    assert refused.value.reason == "INSTRUMENT_NOT_READY"


async def test_a_payment_charges_a_saved_instrument_for_its_own_customer_alone(
    office: Any, customer: str
) -> None:
    made = await save(office, wanted(customer))
    found = await chargeable(office, made)
    draft = office.story.draft(tokens={}, customer_id="")
    order = with_instrument(draft.order, made.instrument_id, found)
    assert (order.tokens, order.customer_id) == ({FIRST: "pm_1"}, customer)
    paid = await office.story.saga.create(replace(draft, order=order), office.story.terms)
    assert paid.captured_minor == 1999
    assert paid.order.payers == found.payers
    with pytest.raises(Refusal) as refused:
        with_instrument(replace(order, customer_id="somebody else"), made.instrument_id, found)
    assert refused.value.reason == "INSTRUMENT_NOT_FOUND"


async def test_a_processor_without_customers_of_its_own_takes_the_token_as_it_is(
    office: Any, customer: str
) -> None:
    office.setup._vaults = {}
    made = await save(office, wanted(customer, off_session=True))
    assert statuses(made) == ["READY"]
    assert office.vault.keys == []


async def test_a_repeated_key_saves_once_and_another_body_is_refused(
    office: Any, customer: str
) -> None:
    first = await save(office, wanted(customer))
    again, headers = await office.headers(
        office.instruments.CreateInstrument, wanted(customer), "k"
    )
    assert again.instrument == first
    assert headers["idempotent-replayed"] == "true"
    assert len(office.vault.setups) == 1
    reused = await office.refused(
        office.instruments.CreateInstrument, wanted(customer, (FIRST, "pm_2")), "k"
    )
    assert reused["reason"] == "IDEMPOTENCY_KEY_REUSED"


async def test_racing_callers_save_one_instrument_of_one_payer(office: Any, customer: str) -> None:
    request = wanted(customer, (FIRST, "pm_1"), (SECOND, "pm_2"))
    made = await asyncio.gather(*(save(office, request) for _ in range(8)))
    assert len({i.instrument_id for i in made}) == 1
    assert len(office.vault.setups) == 2
    assert len(office.vault.payers) == 2
    final = await confirm(office, made[0])
    assert statuses(final) == ["READY", "READY"]


@pytest.mark.parametrize(
    ("tokens", "customer_id", "reason"),
    [
        (((OTHER_ACCOUNT, "pm_1"),), "ada-7", "ACCOUNT_NOT_FOUND"),
        (((FIRST, "pm_1"), (FIRST, "pm_2")), "ada-7", "FIELD_INVALID"),
        (((FIRST, "pm_1"),), "nobody", "CUSTOMER_NOT_FOUND"),
        (((FIRST, "4242424242424242"),), "ada-7", "CARD_NUMBER_REFUSED"),
    ],
)
async def test_what_can_t_be_saved_is_refused_and_no_processor_hears_of_it(
    office: Any, customer: str, tokens: Any, customer_id: str, reason: str
) -> None:
    refused = await office.refused(
        office.instruments.CreateInstrument, wanted(customer_id, *tokens), "k"
    )
    assert refused["reason"] == reason
    assert office.vault.keys == []


async def test_a_customer_has_so_many_instruments_and_no_more(office: Any, customer: str) -> None:
    made = [await save(office, wanted(customer, (FIRST, f"pm_{n}")), f"k{n}") for n in range(16)]
    refused = await office.refused(
        office.instruments.CreateInstrument, wanted(customer, (FIRST, "pm_x")), "one-more"
    )
    assert (refused["reason"], refused["limit"]) == ("LIMIT_REACHED", "16")
    listed = await office.ask(
        office.instruments.ListInstruments, P.ListInstrumentsRequest(customer_id=customer)
    )
    assert [i.instrument_id for i in listed.instruments] == [
        i.instrument_id for i in reversed(made)
    ]
    await detach(office, made[0])
    await save(office, wanted(customer, (FIRST, "pm_x")), "one-more")


async def detach(office: Any, instrument: Any) -> Any:
    request = P.DetachInstrumentRequest(instrument_id=instrument.instrument_id)
    return (await office.ask(office.instruments.DetachInstrument, request)).instrument


async def test_a_detached_instrument_is_never_charged_again_and_no_default_any_more(
    office: Any, customer: str
) -> None:
    made = await save(office, wanted(customer))
    held = await office.ask(
        office.customers.GetCustomer, customers_pb2.GetCustomerRequest(customer_id=customer)
    )
    preferred = await office.ask(
        office.customers.UpdateCustomer,
        customers_pb2.UpdateCustomerRequest(
            customer_id=customer,
            etag=held.customer.etag,
            default_instrument_id=made.instrument_id,
        ),
    )
    assert preferred.customer.default_instrument_id == made.instrument_id

    gone = await detach(office, made)

    assert (gone.detached, statuses(gone)) == (True, ["DETACHED"])
    assert office.vault.attached == set()
    with pytest.raises(Refusal, match="No token"):
        await chargeable(office, made)
    held = await office.ask(
        office.customers.GetCustomer, customers_pb2.GetCustomerRequest(customer_id=customer)
    )
    assert held.customer.default_instrument_id == ""
    refused = await office.refused(
        office.customers.UpdateCustomer,
        customers_pb2.UpdateCustomerRequest(
            customer_id=customer,
            etag=held.customer.etag,
            default_instrument_id=made.instrument_id,
        ),
    )
    assert (refused["reason"], refused["field"]) == (
        "INSTRUMENT_NOT_FOUND",
        "default_instrument_id",
    )


async def test_a_processor_that_does_not_answer_is_told_again(office: Any, customer: str) -> None:
    made = await save(office, wanted(customer))
    office.vault.script = ["lost_before"]
    half, headers = await office.headers(
        office.instruments.DetachInstrument,
        P.DetachInstrumentRequest(instrument_id=made.instrument_id),
    )
    assert (half.instrument.detached, statuses(half.instrument)) == (True, ["READY"])
    assert headers["x-http-status"] == "202"
    assert statuses(await detach(office, made)) == ["DETACHED"]


async def test_another_merchant_s_instrument_reads_like_none(office: Any, customer: str) -> None:
    made = await save(office, wanted(customer))
    for method, request in (
        (office.instruments.GetInstrument, P.GetInstrumentRequest),
        (office.instruments.ConfirmInstrument, P.ConfirmInstrumentRequest),
        (office.instruments.DetachInstrument, P.DetachInstrumentRequest),
    ):
        refused = await office.refused(
            method, request(instrument_id=made.instrument_id), merchant=OTHER_MERCHANT
        )
        assert (refused["code"], refused["reason"]) == ("NOT_FOUND", "INSTRUMENT_NOT_FOUND")


async def test_the_trail_holds_no_token(office: Any, customer: str) -> None:
    made = await save(office, wanted(customer, (FIRST, "pm_very_secret")))
    await detach(office, made)
    records = await office.records(subject_id=made.instrument_id)
    assert [r.action for r in records] == [
        "InstrumentsService.CreateInstrument",
        "InstrumentsService.DetachInstrument",
    ]
    assert "pm_very_secret" not in str(records)


def test_a_rail_where_the_payer_sends_has_nothing_to_be_saved() -> None:
    check_processors(["stripe", "amazon_pay"])
    with pytest.raises(Refusal) as refused:
        check_processors(["stripe", "solana"])
    assert (refused.value.reason, refused.value.field) == (
        "INSTRUMENT_UNSUPPORTED",
        "instrument.tokens",
    )
