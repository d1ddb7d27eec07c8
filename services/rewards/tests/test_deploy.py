import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from solders.keypair import Keypair

from smartpay_chassis.settings import SettingsError
from smartpay_chassis.testing import write_merchants
from smartpay_rewards.deploy import DeployError, DeploySettings, deploy
from smartpay_rewards.settings import RewardsSettings, keypair_of
from smartpay_rewards.testing import ISSUER, RECEIPT_KEY, WALLET


def settings(world: Any, **changes: Any) -> DeploySettings:
    values: dict[str, Any] = {"rpc_url": world.url, "mint_authority": SecretStr(str(ISSUER))}
    return DeploySettings(**(values | changes))


async def test_a_second_deploy_finds_the_mint_and_changes_nothing(world: Any) -> None:
    before = world.simulator.dump()
    again = await deploy(settings(world, expected_mint=world.mint))
    assert again == {
        "mint": world.mint,
        "authority": str(ISSUER.pubkey()),
        "genesis_hash": before["genesis_hash"],
    }
    assert world.simulator.dump() == before
    assert before["mints"][world.mint] == {
        "supply": "0",
        "decimals": 6,
        "authority": str(ISSUER.pubkey()),
    }


async def test_a_key_file_is_made_once_for_its_owner_only(world: Any, tmp_path: Path) -> None:
    path = tmp_path / "mint.json"
    first = await deploy(settings(world, mint_keypair_file=path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert first["mint"] == str(keypair_of(path.read_text()).pubkey()) != world.mint
    assert await deploy(settings(world, mint_keypair_file=path)) == first


async def test_another_mint_than_the_expected_one_is_refused(world: Any) -> None:
    with pytest.raises(DeployError, match="REWARDS_MINT_KEYPAIR_FILE"):
        await deploy(settings(world, expected_mint=WALLET))


async def test_a_chain_that_gives_nothing_away_says_so(world: Any) -> None:
    world.simulator.set_faults([{"kind": "error_before", "method": "requestAirdrop"}])
    poor = SecretStr(str(Keypair()))
    with pytest.raises(DeployError, match="has no SOL"):
        await deploy(settings(world, mint_authority=poor))


def test_a_wrong_environment_ends_with_78_and_names_the_variable_but_not_the_secret() -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "MINT_AUTHORITY_SECRET_KEY": "not-a-key-hunter2",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "smartpay_rewards.deploy"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == os.EX_CONFIG
    assert "SOLANA_RPC_URL" in ended.stderr
    assert "MINT_AUTHORITY_SECRET_KEY" in ended.stderr
    assert "hunter2" not in ended.stderr


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(("REWARDS_", "SOLANA_", "SMARTPAY_", "MINT_")):
            monkeypatch.delenv(name)
    for name, value in {
        "SMARTPAY_LISTEN_SOCKET": "s",
        "SMARTPAY_EGRESS_SOCKET": "e",
        "SMARTPAY_MERCHANTS_FILE": str(write_merchants(tmp_path / "merchants.json")),
        "SOLANA_RPC_URL": "http://127.0.0.1:1",
        "SPL_TOKEN_MINT_ADDRESS": WALLET,
        "MINT_AUTHORITY_SECRET_KEY": json.dumps(list(bytes(ISSUER))),
        "REWARDS_RECEIPT_KEY": RECEIPT_KEY.hex(),
        "REWARDS_STORE_PATH": "r.sqlite",
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_settings_are_read_from_the_environment_and_from_mounted_files(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert RewardsSettings.from_environment().authority == ISSUER
    environment.delenv("MINT_AUTHORITY_SECRET_KEY")
    (tmp_path / "key").write_text(f"{ISSUER}\n")
    environment.setenv("MINT_AUTHORITY_SECRET_KEY_FILE", str(tmp_path / "key"))
    environment.setenv("REWARDS_USD_RATES", '{"USD": "1", "CHF": "1.10"}')
    read = RewardsSettings.from_environment()
    assert read.authority == ISSUER
    assert str(read.terms.usd_rates["CHF"]) == "11/10"
    assert str(ISSUER) not in repr(read)
    assert RECEIPT_KEY.hex() not in repr(read)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPL_TOKEN_MINT_ADDRESS", "hunter2"),
        ("DEFAULT_USER_WALLET", "hunter2"),
        ("REWARDS_RECEIPT_KEY", "abcd"),
        ("REWARDS_RECEIPT_KEY", "hunter2"),
        ("REWARDS_USD_RATES", '{"CHF": "0"}'),
        ("REWARDS_USD_RATES", '{"CHF": "1/0"}'),
        ("MINT_AUTHORITY_SECRET_KEY", "[1, 2, 300]"),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as refused:
        RewardsSettings.from_environment()
    assert "hunter2" not in str(refused.value)
