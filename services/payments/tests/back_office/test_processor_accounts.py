from __future__ import annotations

import asyncio
import stat
from typing import Any

import grpc
import pytest

from smartpay.payments.v1 import processor_accounts_pb2
from smartpay.type.v1 import instrument_pb2
from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT, OTHER_MERCHANT
from smartpay_payments.adapters.account_secrets import AccountView

A = processor_accounts_pb2
KEY = "sk_test_0123456789abcdef"
NEW_KEY = "sk_test_fedcba9876543210"
WEBHOOK = "whsec_0123456789abcdef"
WALLET = {"recipient": "1" * 32, "refund_secret_key": "1" * 88}
AMAZON = {
    "public_key_id": "SANDBOX-1234",
    "private_key": f"-----BEGIN PRIVATE KEY-----{'x' * 100}",
    "store_id": "store",
    "merchant_id": "merchant",
    "region": "eu",
}
TENANT = (DEMO_MERCHANT.merchant_id, False)
FEES = [{"currency_code": "USD", "basis_points": 290, "fixed_minor_units": 30}]


def wanted(**changes: Any) -> A.CreateProcessorAccountRequest:
    return A.CreateProcessorAccountRequest(
        **{
            "name": "third",
            "fees": FEES,
            "credentials": {"stripe": {"secret_key": KEY}},
            **changes,
        }
    )


async def add(office: Any, key: str = "k", **changes: Any) -> Any:
    response = await office.ask(office.accounts.CreateProcessorAccount, wanted(**changes), key)
    return response.processor_account


async def read(office: Any, account: Any) -> Any:
    request = A.GetProcessorAccountRequest(processor_account_id=account.processor_account_id)
    return (await office.ask(office.accounts.GetProcessorAccount, request)).processor_account


async def update(office: Any, account: Any, **changes: Any) -> Any:
    request = A.UpdateProcessorAccountRequest(
        processor_account_id=account.processor_account_id, etag=account.etag, **changes
    )
    return (await office.ask(office.accounts.UpdateProcessorAccount, request)).processor_account


def keys(office: Any) -> AccountView[str]:
    return AccountView("stripe", {}, office.parts.secrets, lambda fields: fields["secret_key"])


async def test_an_added_account_is_charged_at_once_without_a_restart(office: Any) -> None:
    view = keys(office)
    response, headers = await office.headers(office.accounts.CreateProcessorAccount, wanted(), "k")
    account = response.processor_account
    assert headers["x-http-status"] == "201"
    assert account.processor == instrument_pb2.PROCESSOR_STRIPE
    assert (account.enabled, account.livemode, account.read_only) == (True, False, False)
    assert view[account.processor_account_id] == KEY
    terms = office.parts.directory.terms(*TENANT)
    assert [a.processor_account_id for a in terms.accounts] == [
        *DEMO_ACCOUNTS,
        account.processor_account_id,
    ]
    office.story.advisor.ranking = None  # the router has not heard of it yet
    draft = office.story.draft(tokens={account.processor_account_id: "pm_1"})
    paid = await office.story.saga.create(draft, terms)
    assert paid.last_attempt.processor_account_id == account.processor_account_id
    owner = office.parts.directory.owner_of(account.processor_account_id)
    assert owner is not None
    assert owner[0].merchant_id == DEMO_MERCHANT.merchant_id


async def test_secrets_go_in_and_never_come_out(
    office: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    account = await add(office)
    account = await update(office, account, credentials={"stripe": {"secret_key": NEW_KEY}})
    request = A.AddWebhookSecretRequest(
        processor_account_id=account.processor_account_id, webhook_secret=WEBHOOK
    )
    told = await office.ask(office.accounts.AddWebhookSecret, request)
    listed = await office.ask(
        office.accounts.ListProcessorAccounts, A.ListProcessorAccountsRequest()
    )
    seen = [
        str(told),
        str(listed),
        str(await read(office, account)),
        str(await office.records()),
        str(await office.log()),
        await office.tables(),
        *capsys.readouterr(),
    ]
    for secret in (KEY, NEW_KEY, WEBHOOK):
        assert [text for text in seen if secret in text] == []
    assert keys(office)[account.processor_account_id] == NEW_KEY
    assert list(office.parts.secrets.webhook_secrets(account.processor_account_id)) == [WEBHOOK]


async def test_secret_files_are_for_the_service_alone_and_old_ones_are_removed(
    office: Any,
) -> None:
    account = await add(office)
    await update(office, account, credentials={"stripe": {"secret_key": NEW_KEY}})
    files = [f for f in office.secrets.rglob("*") if f.is_file()]
    (file,) = files
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert NEW_KEY in file.read_text()


async def test_a_repeated_key_adds_one_account(office: Any) -> None:
    made = await asyncio.gather(*(add(office) for _ in range(8)))
    assert len({a.processor_account_id for a in made}) == 1
    assert len(office.parts.directory.get(*TENANT).accounts) == 1
    reused = await office.refused(office.accounts.CreateProcessorAccount, wanted(name="other"), "k")
    assert reused["reason"] == "IDEMPOTENCY_KEY_REUSED"
    other_secret = wanted(credentials={"stripe": {"secret_key": NEW_KEY}})
    reused = await office.refused(office.accounts.CreateProcessorAccount, other_secret, "k")
    assert reused["reason"] == "IDEMPOTENCY_KEY_REUSED"


async def test_racing_admins_lose_none_of_their_accounts(office: Any) -> None:
    made = await asyncio.gather(
        *(add(office, f"k{n}", name=f"n{n}") for n in range(6)), return_exceptions=True
    )
    added = [a for a in made if not isinstance(a, BaseException)]
    refused = [a for a in made if isinstance(a, grpc.aio.AioRpcError)]
    assert len(added) + len(refused) == 6
    assert {a.processor_account_id for a in office.parts.directory.get(*TENANT).accounts} == {
        a.processor_account_id for a in added
    }


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        (
            {"credentials": {"stripe": {"secret_key": "sk_live_0123456789abcdef"}}},
            "CREDENTIALS_REFUSED",
            "credentials",
        ),
        ({"credentials": {}}, "CREDENTIALS_REFUSED", "credentials"),
        ({"credentials": {"solana": WALLET}}, "CREDENTIALS_REFUSED", "credentials"),
        ({"credentials": {"amazon_pay": AMAZON}}, "CREDENTIALS_REFUSED", "credentials"),
        ({"fees": [{"currency_code": "USDC"}]}, "FIELD_INVALID", "fees"),
        (
            {"credentials": {"stripe": {"secret_key": "hunter2"}}},
            "FIELD_INVALID",
            "credentials.stripe.secret_key",
        ),
        ({"fees": []}, "FIELD_INVALID", "fees"),
        ({"fees": [*FEES, *FEES]}, "FIELD_INVALID", "fees"),
        ({"name": ""}, "FIELD_INVALID", "name"),
    ],
)
async def test_what_can_t_be_an_account_is_refused_by_field_and_tells_no_secret(
    office: Any, changes: Any, reason: str, field: str
) -> None:
    refused = await office.refused(office.accounts.CreateProcessorAccount, wanted(**changes), "k")
    assert (refused["reason"], refused["field"]) == (reason, field)
    assert "hunter2" not in str(refused)
    assert "sk_live" not in str(refused)
    assert not list(office.secrets.rglob("*.secret"))


async def test_accounts_of_the_mounted_table_are_shown_and_not_changed(office: Any) -> None:
    listed = await office.ask(
        office.accounts.ListProcessorAccounts, A.ListProcessorAccountsRequest()
    )
    assert [(a.name, a.read_only) for a in listed.processor_accounts] == [
        ("first", True),
        ("second", True),
    ]
    mounted = listed.processor_accounts[0].processor_account_id
    refused = await office.refused(
        office.accounts.DisableProcessorAccount,
        A.DisableProcessorAccountRequest(processor_account_id=mounted),
    )
    assert (refused["code"], refused["reason"]) == ("FAILED_PRECONDITION", "ACCOUNT_READ_ONLY")


async def test_a_disabled_account_takes_no_new_charges_and_keeps_its_secrets_for_refunds(
    office: Any,
) -> None:
    account = await add(office)
    disabled = await office.ask(
        office.accounts.DisableProcessorAccount,
        A.DisableProcessorAccountRequest(processor_account_id=account.processor_account_id),
    )
    assert not disabled.processor_account.enabled
    assert keys(office)[account.processor_account_id] == KEY
    (added,) = [
        a
        for a in office.parts.directory.terms(*TENANT).accounts
        if a.processor_account_id == account.processor_account_id
    ]
    assert not added.enabled
    enabled = await update(office, disabled.processor_account, enabled=True)
    assert enabled.enabled


async def test_an_update_changes_what_is_given_and_needs_the_present_etag(office: Any) -> None:
    account = await add(office)
    changed = await update(
        office, account, name="renamed", fees=[{"currency_code": "EUR", "basis_points": 1}]
    )
    assert (changed.name, changed.enabled) == ("renamed", True)
    assert [f.currency_code for f in changed.fees] == ["EUR"]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await update(office, account, name="again")
    assert refused.value.code() is grpc.StatusCode.ABORTED
    assert (await read(office, account)).name == "renamed"
    with pytest.raises(grpc.aio.AioRpcError):
        await update(office, changed, credentials={"amazon_pay": AMAZON})


async def test_webhook_secrets_overlap_while_one_replaces_another(office: Any) -> None:
    account = await add(office)
    account_id = account.processor_account_id

    async def put(secret: str) -> Any:
        request = A.AddWebhookSecretRequest(processor_account_id=account_id, webhook_secret=secret)
        return (await office.ask(office.accounts.AddWebhookSecret, request)).processor_account

    old = await put("old secret of ours")
    assert await put("old secret of ours") == old
    both = await put("new secret of ours")
    assert len(both.webhook_secrets) == 2
    assert set(office.parts.secrets.webhook_secrets(account_id)) == {
        "old secret of ours",
        "new secret of ours",
    }
    request = A.RemoveWebhookSecretRequest(
        processor_account_id=account_id,
        webhook_secret_id=old.webhook_secrets[0].webhook_secret_id,
    )
    await office.ask(office.accounts.RemoveWebhookSecret, request)
    assert list(office.parts.secrets.webhook_secrets(account_id)) == ["new secret of ours"]
    gone = await office.refused(office.accounts.RemoveWebhookSecret, request)
    assert gone["reason"] == "WEBHOOK_SECRET_NOT_FOUND"
    for n in range(3):
        await put(f"secret number {n} of ours")
    one_more = A.AddWebhookSecretRequest(
        processor_account_id=account_id, webhook_secret="one more secret of ours"
    )
    refused = await office.refused(office.accounts.AddWebhookSecret, one_more)
    assert (refused["reason"], refused["limit"]) == ("LIMIT_REACHED", "4")


async def test_secrets_are_read_again_after_a_restart(office: Any) -> None:
    account = await add(office)
    profile = office.parts.directory.get(*TENANT)
    fresh = type(office.parts.secrets)(office.parts.secrets._store)
    view = AccountView("stripe", {}, fresh, lambda fields: fields["secret_key"])
    assert account.processor_account_id not in view
    await fresh.load(profile.accounts[0])
    assert view[account.processor_account_id] == KEY
    assert list(view) == [account.processor_account_id]
    other = AccountView("amazon_pay", {}, fresh, lambda fields: fields["secret_key"])
    assert account.processor_account_id not in other


async def test_another_merchant_s_account_reads_like_none(office: Any) -> None:
    account = await add(office)
    account_id = account.processor_account_id
    for method, request in (
        (
            office.accounts.GetProcessorAccount,
            A.GetProcessorAccountRequest(processor_account_id=account_id),
        ),
        (
            office.accounts.DisableProcessorAccount,
            A.DisableProcessorAccountRequest(processor_account_id=account_id),
        ),
        (
            office.accounts.AddWebhookSecret,
            A.AddWebhookSecretRequest(processor_account_id=account_id, webhook_secret=WEBHOOK),
        ),
    ):
        refused = await office.refused(method, request, merchant=OTHER_MERCHANT)
        assert (refused["code"], refused["reason"]) == ("NOT_FOUND", "ACCOUNT_NOT_FOUND")


async def test_each_change_is_an_event_that_carries_the_accounts_and_a_record(
    office: Any,
) -> None:
    account = await add(office)
    await update(office, account, name="renamed")
    changes = [s.merchant_event for s in await office.log() if s.HasField("merchant_event")]
    assert [c.sequence for c in changes] == [2, 1, 2]
    assert [a.name for a in changes[-1].processor_accounts] == ["renamed"]
    added, renamed = await office.records(subject_id=account.processor_account_id)
    assert ("name", "", "third") in [(c.field, c.before, c.after) for c in added.changes]
    assert [(c.field, c.before, c.after) for c in renamed.changes] == [("name", "third", "renamed")]
