"""Saves a customer's card with the customer there, and charges a renewal while they are away."""

import uuid

from smartpay_client import CaptureMethod, Client, Conflict, Initiator, Money

CARD = {"pac_d1mmzd9hq73ytxj4ps4c29ac6f": "pm_card_visa"}

with Client.from_environment() as client:
    customer = client.customers.create(
        customer_id=f"ada-{uuid.uuid4()}@example.com", email="ada@example.com", name="Ada"
    )
    saved = client.instruments.create(customer.customer_id, CARD, off_session=True)
    print("token:", *(token.status for token in saved.tokens))

    renewal = client.payments.create(
        amount=Money(999, "USD"),
        instrument_id=saved.instrument_id,
        capture_method=CaptureMethod.AUTOMATIC,
        customer_id=customer.customer_id,
        initiator=Initiator.MERCHANT,
        off_session=True,
        wait=True,
    )
    print("renewal:", renewal.status)

    customer = client.customers.get(customer.customer_id)  # saving the card changed it
    changed = client.customers.update(
        customer.customer_id, customer.etag, default_instrument_id=saved.instrument_id
    )
    print("default:", changed.default_instrument_id == saved.instrument_id)
    try:
        client.customers.update(customer.customer_id, customer.etag, name="somebody else's")
    except Conflict as refused:
        print(f"{refused.reason}: {refused.remedy}")
    found = client.payments.list(customer_id=changed.customer_id, status=["SUCCEEDED", "FAILED"])
    print("payments of the customer:", len(list(found)))
    print("detached:", client.instruments.detach(saved.instrument_id).detached)
