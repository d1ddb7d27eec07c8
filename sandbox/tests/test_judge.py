"""The judge sees each crime, and nothing where all is well."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from smartpay_sandbox.judge import Evidence, judge

CARD, WALLET, CHAIN = "pac_card", "pac_wallet", "pac_chain"
USDC = "mint"


def money(minor: int, currency: str = "USD") -> dict[str, str]:
    return {"minorUnits": str(minor), "currencyCode": currency}


def payment(
    name: str, rail: str, account: str, object_id: str, captured: int, **changes: Any
) -> dict[str, Any]:
    currency = "USDC" if rail == "SOLANA" else "USD"
    back = changes.pop("back", 0)
    legs = {
        "capture": {f"processor:{account}": captured, "merchant:m": -captured},
        "refund:ref_1": {"merchant:m": back, f"processor:{account}": -back},
        **changes.pop("legs", {}),
    }
    return {
        "paymentId": name,
        "status": "STATUS_SUCCEEDED",
        "amount": money(captured, currency),
        "capturedAmount": money(captured, currency),
        "refundedAmount": money(back, currency),
        "overpaidAmount": money(0, currency),
        "attempts": [
            {
                "processorAccountId": account,
                "processor": f"PROCESSOR_{rail}",
                "status": "STATUS_SUCCEEDED",
                "processorPaymentId": object_id,
            }
        ],
        "ledger": [
            {"transactionId": name, "account": where, "amount": money(minor, currency)}
            for name, both in legs.items()
            for where, minor in both.items()
            if minor
        ],
        "etag": '"2"',
        **changes,
    }


def intent(payment_id: str, intent_id: str, received: int) -> dict[str, Any]:
    return {
        "id": intent_id,
        "metadata": {"payment_id": payment_id},
        "currency": "usd",
        "status": "succeeded",
        "amount_received": received,
        "amount_capturable": 0,
        "latest_charge": f"ch_{intent_id}",
    }


def charge(payment_id: str, charge_id: str, units: int) -> dict[str, Any]:
    return {
        "chargeId": charge_id,
        "merchantMetadata": {"merchantReferenceId": payment_id},
        "chargeAmount": {"amount": f"{units // 100}.{units % 100:02d}", "currencyCode": "USD"},
        "statusDetails": {"state": "Captured"},
        "_captured": units,
    }


def sent(amount: int, payer: str = "ann", payee: str = "shop") -> dict[str, Any]:
    return {"payer": payer, "payee": payee, "mint": USDC, "amount": str(amount)}


def refund(refund_id: str, minor: int, currency: str = "USD", **more: str) -> dict[str, Any]:
    return {
        "refundId": refund_id,
        "amount": money(minor, currency),
        "status": "STATUS_SUCCEEDED",
        "reason": "REASON_REQUESTED_BY_CUSTOMER",
        **more,
    }


@pytest.fixture
def honest() -> Evidence:
    """A card charge with a refund, a wallet charge, and coins of which too many came."""
    surplus = {
        "transfers:0": {f"processor:{CHAIN}": 700, "overpayments:m": -700},
        "refund:ref_2": {"overpayments:m": 700, f"processor:{CHAIN}": -700},
    }
    payments = [
        payment("pay_card", "STRIPE", CARD, "pi_1", 1000, back=400, refunds=[refund("ref_1", 400)]),
        payment("pay_wallet", "AMAZON_PAY", WALLET, "C1", 2000),
        payment(
            "pay_coins",
            "SOLANA",
            CHAIN,
            "reference",
            3000,
            legs=surplus,
            overpaidAmount=money(700, "USDC"),
            refunds=[
                refund("ref_2", 700, "USDC", reason="REASON_OVERPAYMENT", processorRefundId="mark")
            ],
        ),
    ]
    events = [
        event
        for p in payments
        for event in (
            (p["paymentId"], 1, "STATUS_PROCESSING"),
            (p["paymentId"], 2, "STATUS_SUCCEEDED"),
        )
    ]
    return Evidence(
        payments=payments,
        events=events,
        watched=list(events),
        answers={p["paymentId"]: [copy.deepcopy(p)] for p in payments},
        stripe={
            "accounts": {
                "acct": {
                    "payment_intents": {"pi_1": intent("pay_card", "pi_1", 1000)},
                    "refunds": {
                        "re_1": {
                            "id": "re_1",
                            "status": "succeeded",
                            "metadata": {"refund_id": "ref_1"},
                            "payment_intent": "pi_1",
                            "amount": 400,
                        }
                    },
                    "balance_transactions": {},
                }
            }
        },
        amazon_pay={
            "merchants": {
                "A1": {"charges": {"C1": charge("pay_wallet", "C1", 2000)}, "refunds": {}}
            }
        },
        solana={
            "transfers": {"reference": [sent(3000), sent(700)]},
            "refunds": {"mark": sent(700, payer="shop", payee="ann")},
        },
        recipients=["shop"],
        mints={USDC: "USDC"},
        dust={"USDC": 5},
    )


def test_the_judge_has_nothing_to_say_where_all_is_well(honest: Evidence) -> None:
    assert judge(honest) == []


def a_late_charge(evidence: Any, given_back: int) -> None:
    """Lets the card be charged once more, and so much of that be given back as too much."""
    account = stripe(evidence)
    account["payment_intents"]["pi_2"] = intent("pay_card", "pi_2", 1000)
    account["refunds"]["re_2"] = {
        "id": "re_2",
        "status": "succeeded",
        "metadata": {"refund_id": "ref_late"},
        "payment_intent": "pi_2",
        "amount": given_back,
    }
    back = refund("ref_late", given_back, reason="REASON_OVERPAYMENT", processorRefundId="re_2")
    evidence.payments[0]["refunds"].append(back)


def test_a_late_charge_that_was_given_back_is_no_crime(honest: Evidence) -> None:
    a_late_charge(honest, 1000)
    assert judge(honest) == []


@pytest.mark.parametrize("given_back", [999, 2000])
def test_a_late_charge_that_was_not_given_back_exactly_is_one(
    honest: Evidence, given_back: int
) -> None:
    a_late_charge(honest, given_back)
    assert any(found.startswith("double charge: pay_card") for found in judge(honest))


def test_an_answer_may_be_overtaken_by_a_late_success_alone(honest: Evidence) -> None:
    answer: Any = honest.answers["pay_card"][0]
    answer.update(status="STATUS_FAILED", etag='"1"')
    honest.events[0] = honest.watched[0] = ("pay_card", 1, "STATUS_FAILED")  # type: ignore[index]
    assert any("was answered as STATUS_FAILED" in found for found in judge(honest))
    honest.payments[0]["statusReason"] = "charged_late"  # type: ignore[index]
    assert judge(honest) == []


Doctoring = Callable[[Any], object]


def stripe(evidence: Any) -> Any:
    return evidence.stripe["accounts"]["acct"]


CRIMES: dict[str, tuple[Doctoring, str]] = {
    "charged twice": (
        lambda e: stripe(e)["payment_intents"].update(pi_2=intent("pay_card", "pi_2", 1000)),
        "double charge: pay_card",
    ),
    "charged on two rails": (
        lambda e: e.amazon_pay["merchants"]["A1"]["charges"].update(
            C2=charge("pay_card", "C2", 1000)
        ),
        "double charge: pay_card",
    ),
    "charged and not stored": (
        lambda e: stripe(e)["payment_intents"].update(pi_2=intent("pay_gone", "pi_2", 1)),
        "lost charge: stripe holds pi_2",
    ),
    "charged and failed": (
        lambda e: e.payments[0].update(status="STATUS_FAILED"),
        "lost charge: pay_card",
    ),
    "held and canceled": (
        lambda e: (
            e.amazon_pay["merchants"]["A1"]["charges"]["C1"].update(
                statusDetails={"state": "Authorized"}
            ),
            e.payments[1].update(status="STATUS_CANCELED"),
        ),
        "lost hold: pay_wallet",
    ),
    "another amount": (
        lambda e: stripe(e)["payment_intents"]["pi_1"].update(amount_received=999),
        "pay_card: we say 1000",
    ),
    "not charged": (
        lambda e: stripe(e)["payment_intents"].clear(),
        "success without a charge: pay_card",
    ),
    "coins that never came": (
        lambda e: e.solana["transfers"].clear(),
        "success without a charge: pay_coins",
    ),
    "stuck": (lambda e: e.payments[0].update(status="STATUS_UNKNOWN"), "stuck: pay_card"),
    "a refund that is stuck": (
        lambda e: e.payments[0]["refunds"][0].update(status="STATUS_UNKNOWN"),
        "stuck: ref_1",
    ),
    "refunded twice": (
        lambda e: stripe(e)["refunds"].update(re_2=stripe(e)["refunds"]["re_1"] | {"id": "re_2"}),
        "double refund: ref_1",
    ),
    "refunded and not booked": (
        lambda e: e.payments[0].update(refundedAmount=money(0)),
        "refunds of pay_card",
    ),
    "too much refunded": (
        lambda e: stripe(e)["refunds"]["re_1"].update(amount=1001),
        "over-refund: pay_card",
    ),
    "a surplus that nobody booked": (
        lambda e: e.solana["transfers"]["reference"].append(sent(900)),
        "overpayment: pay_coins got 4600",
    ),
    "a surplus that never went back": (
        lambda e: e.payments[2].update(refunds=[]),
        "overpayment: of 700 too much for pay_coins, 0 went back",
    ),
    "a refund that never landed": (
        lambda e: e.solana["refunds"].clear(),
        "refund without a payment: ref_2",
    ),
    "a refund to somebody else": (
        lambda e: e.solana["refunds"]["mark"].update(payee="eve"),
        "over-refund: eve sent 0",
    ),
    "a refund nobody asked for": (
        lambda e: e.solana["refunds"].update(other=sent(1)),
        "refund unknown to us: other",
    ),
    "a transfer to nobody's reference": (
        lambda e: e.solana["transfers"].update(stranger=[sent(1)]),
        "lost charge: a transfer names stranger",
    ),
    "a transaction that is not balanced": (
        lambda e: e.payments[0]["ledger"].pop(),
        "ledger: refund:ref_1 of pay_card sums to",
    ),
    "books without the capture": (
        lambda e: e.payments[1].update(ledger=[]),
        "ledger: pay_wallet captured 0",
    ),
    "books that differ from the processor's": (
        lambda e: e.payments[1]["ledger"].extend(
            {"transactionId": "fee", "account": where, "amount": money(minor)}
            for where, minor in ((f"processor:{WALLET}", -7), ("merchant:m", 7))
        ),
        f"totals: owed at {WALLET}",
    ),
    "an answer that is not true any more": (
        lambda e: e.answers["pay_card"][0].update(status="STATUS_FAILED"),
        "pay_card was answered as STATUS_FAILED and is STATUS_SUCCEEDED",
    ),
    "an answer that was never stored": (
        lambda e: e.answers["pay_card"][0].update(etag='"7"'),
        "pay_card was answered as STATUS_SUCCEEDED, which no event says",
    ),
    "a payment that is gone": (lambda e: e.payments.pop(0), "an answered payment is gone"),
    "a refund that is gone": (
        lambda e: e.answers.update(r=[refund("ref_9", 1, paymentId="pay_card")]),
        "an answered refund is gone: ref_9",
    ),
    "two payments under one key": (
        lambda e: e.answers["pay_card"].append(e.payments[1]),
        "key pay_card led to several",
    ),
    "an event that is gone": (lambda e: e.events.pop(0), "events of pay_card have gaps"),
    "an event nobody was told of": (lambda e: e.watched.pop(), "a consumer missed 1 events"),
}


@pytest.mark.parametrize(("doctor", "sentence"), CRIMES.values(), ids=CRIMES)
def test_each_crime_is_seen(honest: Evidence, doctor: Doctoring, sentence: str) -> None:
    doctor(honest)
    assert any(found.startswith(sentence) for found in judge(honest)), judge(honest)
