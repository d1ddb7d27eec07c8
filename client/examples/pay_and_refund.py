"""Takes a payment, looks at it, gives a part of it back."""

import uuid

from smartpay_client import CaptureMethod, Client, Money

# The demo merchant's accounts; yours are in your own configuration.
CARD = {
    "pac_d1mmzd9hq73ytxj4ps4c29ac6f": "pm_card_visa",
    "pac_d1gv5pzwhahz40rf2sz6cncq3h": "pm_card_visa",
}

with Client.from_environment() as client:
    order = f"order-{uuid.uuid4()}"
    payment = client.payments.create(
        amount=Money(1999, "USD"),
        instrument=CARD,
        capture_method=CaptureMethod.AUTOMATIC,
        merchant_order_id=order,
        idempotency_key=order,  # the same order is the same payment, even after a crash of ours
        wait=True,
    )
    print(f"{payment.payment_id}: {payment.status}, {payment.captured_amount.minor_units} taken")

    refund = client.payments.refund(
        payment.payment_id, Money(500, "USD"), idempotency_key=f"{order}-goods-damaged"
    )
    payment = client.payments.get(payment.payment_id)
    print(f"refund {refund.status}: {payment.refunded_amount.minor_units} given back in all")
    print(f"its ledger has {len(payment.ledger)} legs; they sum to", end=" ")
    print(sum(leg.amount.minor_units for leg in payment.ledger))
