from __future__ import annotations

from typing import Any

import pytest

from smartpay.payments.v1 import customers_pb2
from smartpay_chassis.testing import OTHER_MERCHANT

C = customers_pb2


async def saved(office: Any, key: str = "k", **fields: Any) -> Any:
    response = await office.ask(
        office.customers.CreateCustomer, C.CreateCustomerRequest(**fields), key
    )
    return response.customer


def update(customer: Any, **changes: Any) -> C.UpdateCustomerRequest:
    return C.UpdateCustomerRequest(
        **{"customer_id": customer.customer_id, "etag": customer.etag, **changes}
    )


async def test_a_customer_is_saved_under_the_merchant_s_own_id(office: Any) -> None:
    response, headers = await office.headers(
        office.customers.CreateCustomer,
        C.CreateCustomerRequest(customer_id="ada-7", email="ada@example.com", name="Ada"),
        "k",
    )
    assert response.customer.customer_id == "ada-7"
    assert headers["x-http-status"] == "201"
    assert headers["location"] == "/customers/ada-7"
    assert headers["etag"] == response.customer.etag
    read = await office.ask(office.customers.GetCustomer, C.GetCustomerRequest(customer_id="ada-7"))
    assert read.customer == response.customer


async def test_without_an_id_of_its_own_a_customer_gets_one_of_ours(office: Any) -> None:
    customer = await saved(office)
    assert customer.customer_id.startswith("cus_d1")


async def test_a_repeated_key_makes_one_customer_and_another_body_is_refused(office: Any) -> None:
    first = await saved(office, email="ada@example.com")
    again, headers = await office.headers(
        office.customers.CreateCustomer, C.CreateCustomerRequest(email="ada@example.com"), "k"
    )
    assert again.customer == first
    assert headers["idempotent-replayed"] == "true"
    reused = await office.refused(
        office.customers.CreateCustomer, C.CreateCustomerRequest(email="eve@example.com"), "k"
    )
    assert reused["reason"] == "IDEMPOTENCY_KEY_REUSED"


async def test_an_id_that_is_taken_is_refused(office: Any) -> None:
    await saved(office, "a", customer_id="ada-7")
    refused = await office.refused(
        office.customers.CreateCustomer, C.CreateCustomerRequest(customer_id="ada-7"), "b"
    )
    assert (refused["code"], refused["reason"]) == ("ALREADY_EXISTS", "CUSTOMER_EXISTS")


@pytest.mark.parametrize(
    "fields",
    [
        {"customer_id": "a/b"},
        {"customer_id": "(erased)"},
        {"customer_id": "x" * 65},
        {"email": "nobody"},
        {"name": "4242 4242 4242 4242"},
    ],
)
async def test_what_breaks_the_contract_is_refused_by_field(office: Any, fields: Any) -> None:
    refused = await office.refused(
        office.customers.CreateCustomer, C.CreateCustomerRequest(**fields), "k"
    )
    assert refused["code"] == "INVALID_ARGUMENT"
    assert refused["field"] == next(iter(fields))


async def test_an_update_changes_what_is_given_and_leaves_the_rest(office: Any) -> None:
    customer = await saved(office, email="ada@example.com", name="Ada", metadata={"a": "1"})
    response = await office.ask(
        office.customers.UpdateCustomer,
        update(customer, name="", metadata={"a": "", "b": "2"}),
    )
    changed = response.customer
    assert (changed.email, changed.name) == ("ada@example.com", "")
    assert dict(changed.metadata) == {"b": "2"}
    assert changed.etag != customer.etag


async def test_an_update_of_what_somebody_else_changed_is_refused(office: Any) -> None:
    customer = await saved(office)
    await office.ask(office.customers.UpdateCustomer, update(customer, name="Ada"))
    refused = await office.refused(office.customers.UpdateCustomer, update(customer, name="Eve"))
    assert (refused["code"], refused["reason"]) == ("ABORTED", "ETAG_MISMATCH")


async def test_more_pairs_than_may_stay_are_refused(office: Any) -> None:
    customer = await saved(office, metadata={f"k{n}": "v" for n in range(20)})
    refused = await office.refused(
        office.customers.UpdateCustomer, update(customer, metadata={"one more": "v"})
    )
    assert (refused["reason"], refused["field"]) == ("FIELD_INVALID", "metadata")


async def test_pages_hold_each_customer_once_newest_first(office: Any) -> None:
    made = [(await saved(office, f"k{n}", customer_id=f"c{n}")).customer_id for n in range(5)]
    seen: list[str] = []
    token = ""
    while True:
        page = await office.ask(
            office.customers.ListCustomers,
            C.ListCustomersRequest(page_size=2, page_token=token),
        )
        seen += [c.customer_id for c in page.customers]
        token = page.next_page_token
        if not token:
            break
        await saved(office, f"late{len(seen)}")
    assert seen == made[::-1]


async def test_another_merchant_s_customer_reads_like_none(office: Any) -> None:
    customer = await saved(office, customer_id="ada-7")
    for method, request in (
        (office.customers.GetCustomer, C.GetCustomerRequest(customer_id="ada-7")),
        (office.customers.UpdateCustomer, update(customer, name="x")),
    ):
        refused = await office.refused(method, request, merchant=OTHER_MERCHANT)
        assert (refused["code"], refused["reason"]) == ("NOT_FOUND", "CUSTOMER_NOT_FOUND")
    page = await office.ask(
        office.customers.ListCustomers, C.ListCustomersRequest(), merchant=OTHER_MERCHANT
    )
    assert not page.customers


async def test_the_audit_trail_tells_that_fields_were_set_and_never_what_to(office: Any) -> None:
    customer = await saved(office, customer_id="ada-7", email="ada@example.com", name="Ada")
    await office.ask(office.customers.UpdateCustomer, update(customer, email=""))
    created, updated = await office.records()
    assert created.action == "CustomersService.CreateCustomer"
    assert ("email", "", "(set)") in [(c.field, c.before, c.after) for c in created.changes]
    assert ("email", "(set)", "") in [(c.field, c.before, c.after) for c in updated.changes]
    told = f"{created}{updated}"
    assert "ada-7" not in told
    assert "example.com" not in told
