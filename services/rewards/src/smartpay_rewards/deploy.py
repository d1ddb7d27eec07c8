"""Makes the reward token on a chain: `python -m smartpay_rewards.deploy`.

Idempotent: a second run finds the mint and changes nothing. Prints one JSON object. The mint's
address comes from a key file, or else from the mint authority's key, so it is the same each time.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import sys
from pathlib import Path

from pydantic import Field
from solana.rpc.jsonrpc import SolanaJsonRpcError
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, create_account
from solders.transaction import VersionedTransaction
from spl.token.constants import MINT_LEN, TOKEN_PROGRAM_ID
from spl.token.instructions import initialize_mint2
from spl.token.models import InitializeMint2Params
from typing_extensions import TypedDict

from smartpay_chassis.settings import SettingsError
from smartpay_rewards.adapters.solana_chain import (
    AccountValue,
    AccountView,
    BlockhashValue,
    SolanaRpc,
    mint_problem,
)
from smartpay_rewards.domain.issuance import ChainUnsureError
from smartpay_rewards.domain.reward import TOKEN_DECIMALS
from smartpay_rewards.settings import ChainSettings, keypair_of

LAMPORTS_PER_SOL = 10**9
# Below this the authority is topped up: some 300 rewards to wallets without a token account.
FUNDS_LAMPORTS_MIN = LAMPORTS_PER_SOL
# What to ask a faucet for: a local chain gives the first, public test chains at most the others.
AIRDROP_LAMPORTS = (1000 * LAMPORTS_PER_SOL, 2 * LAMPORTS_PER_SOL, LAMPORTS_PER_SOL)
WAIT_SECONDS = 60.0  # about how long a cluster keeps a transaction alive
POLL_SECONDS = 0.2
CONFIRMED = {"commitment": "confirmed"}


class Balance(TypedDict):
    """The answer of getBalance, in lamports."""

    value: int


class DeploySettings(ChainSettings):
    """What `deploy` must know."""

    mint_keypair_file: Path | None = Field(
        default=None,
        validation_alias="REWARDS_MINT_KEYPAIR_FILE",
        description="Key file of the mint, made when absent; without it the mint's key is derived"
        " from the mint authority's.",
    )
    expected_mint: str = Field(
        default="",
        validation_alias="SPL_TOKEN_MINT_ADDRESS",
        description="When set, deploying any other mint is refused.",
    )


class DeployError(Exception):
    """The token could not be made; the text says why and what to do."""


def mint_keypair(settings: DeploySettings) -> Keypair:
    """Return the mint's key: the file's, which is made when absent, or the derived one."""
    path = settings.mint_keypair_file
    if path is None:
        secret = bytes(settings.authority)[:32]
        return Keypair.from_seed(hmac.digest(secret, b"smartpay reward mint", hashlib.sha256))
    if path.exists():
        return keypair_of(path.read_text())
    made = Keypair()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(list(bytes(made)), file)
    return made


async def deploy(settings: DeploySettings) -> dict[str, str]:
    """Make the mint if it is not there; returns mint, authority and genesis hash.

    Raises:
        DeployError: the chain has no funds for us, or something else stands at the address.
        ChainUnsureError: the chain gave no usable answer; run it again.
    """
    authority, mint = settings.authority, mint_keypair(settings)
    address = str(mint.pubkey())
    if settings.expected_mint not in ("", address):
        raise DeployError(
            f"SPL_TOKEN_MINT_ADDRESS names another mint than {address}; unset it, or set "
            "REWARDS_MINT_KEYPAIR_FILE to the key file of the mint it names."
        )
    rpc = SolanaRpc(
        settings.rpc_url, timeout_seconds=settings.rpc_timeout_seconds, connections_max=1
    )
    try:
        genesis_hash = await rpc.ask(str, "getGenesisHash")
        await _fund(rpc, authority.pubkey())
        account = await _account(rpc, address)
        if account is None:
            await _create(rpc, authority, mint)
            account = await _account(rpc, address)
        problem = mint_problem(account, authority.pubkey())
        if problem:
            raise DeployError(f"The account {address} {problem}; use another key for the mint.")
    finally:
        await rpc.close()
    return {"mint": address, "authority": str(authority.pubkey()), "genesis_hash": genesis_hash}


async def _account(rpc: SolanaRpc, address: str) -> AccountView | None:
    options = {"encoding": "base64", **CONFIRMED}
    return (await rpc.ask(AccountValue, "getAccountInfo", address, options))["value"]


async def _balance(rpc: SolanaRpc, address: str) -> int:
    return (await rpc.ask(Balance, "getBalance", address, CONFIRMED))["value"]


async def _fund(rpc: SolanaRpc, authority: Pubkey) -> None:
    """Top the authority up where the chain gives lamports away."""
    address = str(authority)
    if await _balance(rpc, address) >= FUNDS_LAMPORTS_MIN:
        return
    for lamports in AIRDROP_LAMPORTS:
        try:
            await rpc.call(str, "requestAirdrop", address, lamports)
        except (SolanaJsonRpcError, ChainUnsureError):
            continue  # a main chain has no faucet, a public one refuses large amounts
        for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):
            if await _balance(rpc, address) > 0:
                return
            await asyncio.sleep(POLL_SECONDS)
    if await _balance(rpc, address) == 0:
        raise DeployError(f"{address} has no SOL and this chain gives none; send it some SOL.")


async def _create(rpc: SolanaRpc, authority: Keypair, mint: Keypair) -> None:
    rent = await rpc.ask(int, "getMinimumBalanceForRentExemption", MINT_LEN)
    blockhash = (await rpc.ask(BlockhashValue, "getLatestBlockhash", CONFIRMED))["value"][
        "blockhash"
    ]
    instructions = [
        create_account(
            CreateAccountParams(
                from_pubkey=authority.pubkey(),
                to_pubkey=mint.pubkey(),
                lamports=rent,
                space=MINT_LEN,
                owner=TOKEN_PROGRAM_ID,
            )
        ),
        initialize_mint2(
            InitializeMint2Params(
                program_id=TOKEN_PROGRAM_ID,
                mint=mint.pubkey(),
                decimals=TOKEN_DECIMALS,
                mint_authority=authority.pubkey(),
                freeze_authority=None,
            )
        ),
    ]
    message = MessageV0.try_compile(
        authority.pubkey(), instructions, [], Hash.from_string(blockhash)
    )
    wire = bytes(VersionedTransaction(message, [authority, mint]))
    options = {"encoding": "base64", "preflightCommitment": "confirmed"}
    try:
        await rpc.call(str, "sendTransaction", base64.b64encode(wire).decode(), options)
    except SolanaJsonRpcError as error:
        # Another run may have been faster; whether the mint stands is looked at next.
        if await _account(rpc, str(mint.pubkey())) is None:
            raise DeployError(f"The chain refused to make the mint: {error}") from error
    for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):
        if await _account(rpc, str(mint.pubkey())) is not None:
            return
        await asyncio.sleep(POLL_SECONDS)
    raise DeployError("The mint did not appear within a minute; run deploy again.")


def main() -> int:
    """Deploy by the environment's settings; returns the exit status."""
    try:
        made = asyncio.run(deploy(DeploySettings.from_environment()))
    except SettingsError as error:
        sys.stderr.write(f"deploy: {error}\n")
        return os.EX_CONFIG
    except (DeployError, ChainUnsureError) as error:
        sys.stderr.write(f"deploy: {error}\n")
        return 1
    sys.stdout.write(json.dumps(made) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
