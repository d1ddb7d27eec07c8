"""Credentials, amounts and reason codes; what only a real vendor's answers could get wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from smartpay_chassis.merchants import Fee, Merchants, ProcessorAccount
from smartpay_chassis.settings import SettingsError
from smartpay_chassis.testing import DEMO_MERCHANT
from smartpay_payments.adapters import amazon_pay_objects as objects
from smartpay_payments.adapters.amazon_pay_signing import (
    canonical_request,
    read_account,
    signed_headers,
)
from smartpay_payments.amazon_pay_rail import amazon_pay_accounts
from smartpay_payments.domain.declines import is_soft

NOW = datetime(2026, 11, 22, 18, 0, 1, tzinfo=UTC)


@cache
def private_key(kind: str = "rsa", password: str = "") -> str:
    key: Any
    if kind == "rsa":
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    text: str = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()
    return text


def secret(**changes: Any) -> str:
    return json.dumps(
        {
            "public_key_id": "SANDBOX-1",
            "private_key": private_key(),
            "store_id": "amzn1.store",
            "merchant_id": "A1",
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("not json", "not JSON"),
        ("[]", "no JSON object"),
        (secret(store_id=""), "lacks store_id"),
        (secret(merchant_id=5), "lacks merchant_id"),
        (secret(region="moon"), "region must be one of na, eu, jp"),
        (secret(public_key_id="LIVE-1"), "the other mode"),
        (secret(private_key="-----BEGIN"), "no PEM private key"),
        (secret(private_key=private_key("ec")), "must be an RSA key"),
        (secret(private_key=private_key("rsa", "pw")), "without a password"),
    ],
)
def test_credentials_that_can_not_be_used_say_why_and_never_what(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        read_account(text, livemode=False)
    assert "BEGIN" not in str(refused.value)


def test_credentials_never_show_their_key() -> None:
    assert "key=" not in repr(read_account(secret(), livemode=False)).replace(
        "private_key=", "key="
    )


@pytest.mark.parametrize(
    ("key_id", "livemode", "path"),
    [
        ("SANDBOX-1", False, "/v2"),
        ("LIVE-1", True, "/v2"),
        ("AFVX7ULWSGBZ5535PCUQOY7B", False, "/sandbox/v2"),
        ("AFVX7ULWSGBZ5535PCUQOY7B", True, "/live/v2"),
    ],
)
def test_a_key_that_names_its_environment_needs_no_path_to_do_so(
    key_id: str, livemode: bool, path: str
) -> None:
    assert read_account(secret(public_key_id=key_id), livemode=livemode).version_path == path


def test_accounts_are_read_from_their_own_secret_files_and_a_bad_one_is_named(
    tmp_path: Path,
) -> None:
    def merchants(file: Path | None) -> Merchants:
        account = ProcessorAccount(
            processor_account_id="pac_d1" + "w" * 24,
            processor="amazon_pay",
            name="wallet",
            fees={"USD": Fee(basis_points=290, fixed_minor_units=30)},
            secret_file=file,
        )
        accounts = (*DEMO_MERCHANT.processor_accounts, account)
        changed = DEMO_MERCHANT.model_copy(update={"processor_accounts": accounts})
        return Merchants(merchants=(changed,))

    file = tmp_path / "wallet.json"
    file.write_text(secret())
    accounts = amazon_pay_accounts(merchants(file))
    assert {name: a.store_id for name, a in accounts.items()} == {
        "pac_d1" + "w" * 24: "amzn1.store"
    }
    file.write_text(secret(region="moon"))
    for bad, why in ((file, "region"), (tmp_path / "none", "No such file"), (None, "no secret")):
        with pytest.raises(SettingsError, match=f"pac_d1w.*{why}"):
            amazon_pay_accounts(merchants(bad))


def test_the_canonical_request_is_as_amazon_documents_it() -> None:
    headers = {"x-amz-pay-date": "20261122T180001Z", "accept": "application/json"}
    assert canonical_request("POST", "/v2/charges", headers, b"{}") == (
        "POST\n/v2/charges\n\n"
        "accept:application/json\nx-amz-pay-date:20261122T180001Z\n\n"
        "accept;x-amz-pay-date\n"
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )


def test_a_key_and_the_host_are_signed_and_the_signature_differs_each_time() -> None:
    account = read_account(secret(), livemode=False)
    arguments = (account, "POST", "pay-api.amazon.com", "/v2/charges", b"{}", NOW, "k")
    first, second = signed_headers(*arguments), signed_headers(*arguments)
    assert first["authorization"].startswith(
        "AMZN-PAY-RSASSA-PSS-V2 PublicKeyId=SANDBOX-1, SignedHeaders=accept;content-type;"
        "user-agent;x-amz-pay-date;x-amz-pay-host;x-amz-pay-idempotency-key;x-amz-pay-region, "
    )
    assert first["x-amz-pay-date"] == "20261122T180001Z"
    assert first["authorization"] != second["authorization"], "PSS is salted"
    assert "x-amz-pay-idempotency-key" not in signed_headers(*arguments[:-1])


# ---- amounts ---------------------------------------------------------------------------------


@given(st.integers(0, 10**14), st.sampled_from(sorted(objects.CURRENCIES)))
def test_an_amount_comes_back_as_it_went(minor: int, currency: str) -> None:
    written = objects.price(minor, currency)
    assert objects.minor_units(written, currency) == minor
    assert "e" not in written["amount"].lower()


@pytest.mark.parametrize("amount", ["19.9", "19.90", "19.9000"])
def test_amounts_that_are_written_differently_are_the_same(amount: str) -> None:
    assert objects.minor_units({"amount": amount, "currencyCode": "USD"}, "USD") == 1990


@pytest.mark.parametrize(
    "found",
    [
        {"amount": "19.999", "currencyCode": "USD"},
        {"amount": "19.99", "currencyCode": "EUR"},
        {"amount": 19.99, "currencyCode": "USD"},
        {"amount": "-1.00", "currencyCode": "USD"},
        {"amount": "NaN", "currencyCode": "USD"},
        {"amount": "Infinity", "currencyCode": "USD"},
        {"amount": "much", "currencyCode": "USD"},
        {"currencyCode": "USD"},
        "19.99",
    ],
)
def test_what_is_no_whole_amount_of_the_currency_is_refused(found: object) -> None:
    with pytest.raises(ValueError, match=r"amount|decimal|finer|nothing"):
        objects.minor_units(found, "USD")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("SoftDeclined", "soft_declined"),
        ("MFANotCompleted", "mfa_not_completed"),
        ("InvalidChargePermissionStatus", "invalid_charge_permission_status"),
    ],
)
def test_reason_codes_are_written_as_ours_are(theirs: str, ours: str) -> None:
    assert objects.snake_case(theirs) == ours


def test_only_what_may_succeed_elsewhere_is_soft() -> None:
    soft = {code for code in objects.DECLINES if is_soft(objects.snake_case(code))}
    assert soft == {"SoftDeclined", "TransactionTimedOut", "ProcessingFailure"}
