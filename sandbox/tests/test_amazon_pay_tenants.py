"""The development mesh's merchants: what payments signs with is what the sandbox verifies with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from smartpay_chassis.merchants import load_merchants
from smartpay_sandbox import tenants
from smartpay_sandbox.amazon_pay_api import AmazonPaySimulator
from smartpay_sandbox.run_folder import RunFolder
from smartpay_sandbox.settings import SettingError, read_settings


async def test_the_demo_merchant_s_credentials_fit_what_the_sandbox_registers(
    tmp_path: Path,
) -> None:
    run = RunFolder(tmp_path / "run")
    run.make()
    tenants.write_amazon_pay_keys(run)
    tenants.write_merchants(run, {name: name for name in tenants.clients()})
    before = run.secret("amazon-pay-merchants.json").read_text()
    tenants.write_amazon_pay_keys(run)
    assert run.secret("amazon-pay-merchants.json").read_text() == before, "made once"

    demo = load_merchants(run.merchants).get(tenants.DEMO.merchant_id, False)
    assert demo is not None
    account = demo.account(tenants.DEMO.account_id(tenants.AMAZON_PAY))
    assert account is not None
    assert account.secret_file is not None
    assert account.secret_file.stat().st_mode & 0o077 == 0
    secret = json.loads(account.secret_file.read_text())

    settings = read_settings(
        {
            "SANDBOX_STATE_DIR": str(tmp_path),
            "SANDBOX_AMAZON_PAY_MERCHANTS": str(run.secret("amazon-pay-merchants.json")),
        }
    )
    (registered,) = settings.amazon_pay_merchants
    assert (registered.merchant_id, registered.store_id, registered.public_key_id) == (
        secret["merchant_id"],
        secret["store_id"],
        secret["public_key_id"],
    )
    private = load_pem_private_key(secret["private_key"].encode(), password=None)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert public.decode() == registered.public_key
    simulator = AmazonPaySimulator(tmp_path, settings.amazon_pay_merchants)
    await simulator.start()
    assert list(simulator.dump()["merchants"]) == [secret["merchant_id"]]
    await simulator.stop()


@pytest.mark.parametrize("text", ["", '{"a": 1}', '[{"merchant_id": "A"}]', "[5]"])
def test_a_list_of_merchants_that_can_not_be_used_says_what_it_should_be(
    tmp_path: Path, text: str
) -> None:
    file = tmp_path / "merchants.json"
    file.write_text(text)
    with pytest.raises(SettingError, match="public_key"):
        read_settings({"SANDBOX_STATE_DIR": "x", "SANDBOX_AMAZON_PAY_MERCHANTS": str(file)})
