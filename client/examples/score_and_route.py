"""Uses fraud and routing on their own, then lets a payment follow the decision."""

import uuid
from datetime import UTC, datetime

from smartpay_client import CaptureMethod, Client, Label, Money, ScoreRequest

CARD = {
    "pac_d1mmzd9hq73ytxj4ps4c29ac6f": "pm_card_visa",
    "pac_d1gv5pzwhahz40rf2sz6cncq3h": "pm_card_visa",
}
AMOUNT = Money(4200, "USD")

with Client.from_environment() as client:
    transaction = f"t-{uuid.uuid4()}"
    assessment = client.fraud.score(
        transaction_id=transaction, amount=AMOUNT, device_id=f"device-{transaction}"
    )
    print(f"{assessment.verdict} with score {assessment.score:.4f}")
    client.fraud.label(transaction, Label.LEGITIMATE, known_time=datetime.now(UTC))
    batch: list[ScoreRequest] = [
        {"transaction_id": f"{transaction}-{number}", "amount": AMOUNT} for number in range(3)
    ]
    print(f"{len(client.fraud.score_batch(batch))} more scored in one call")

    decision = client.route.decide(AMOUNT, CARD, risk=assessment.score)
    for account in decision.ranking:
        print(f"{account.processor_account_id}: {' '.join(account.reasons)}")
    payment = client.payments.create(
        amount=AMOUNT,
        instrument=CARD,
        capture_method=CaptureMethod.AUTOMATIC,
        decision_id=decision.decision_id,
    )
    print(f"{payment.status} at {payment.attempts[-1].processor_account_id}")
    print(f"used by: {client.route.get(decision.decision_id).payment_id == payment.payment_id}")
