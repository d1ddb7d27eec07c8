"""The keys of the development chain: who mints, which mint, whose wallets."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass

from smartpay_sandbox.run_folder import RunFolder, read_json, write_whole

RECEIPT_KEY_BYTES = 32
AUTHORITY = "mint-authority"
MINT = "mint"
RECEIPT_KEY = "rewards-receipt-key"


@dataclass(frozen=True)
class ChainAddresses:
    """Public addresses, base58."""

    mint: str
    default_wallet: str
    treasury_wallet: str


def establish(run: RunFolder) -> ChainAddresses:
    """Makes the keys once, each in a file for this user alone, and answers the addresses."""
    memory = run.state / "chain.json"
    if (known := read_json(memory)) is not None:
        return ChainAddresses(**known)
    from solders.keypair import Keypair  # only a first start pays for it

    made = {name: Keypair() for name in (AUTHORITY, MINT, "default-wallet", "treasury-wallet")}
    for name, keypair in made.items():
        write_whole(run.secret(name), json.dumps(list(bytes(keypair))), mode=0o600)
    write_whole(run.secret(RECEIPT_KEY), secrets.token_hex(RECEIPT_KEY_BYTES), mode=0o600)
    addresses = ChainAddresses(
        mint=str(made[MINT].pubkey()),
        default_wallet=str(made["default-wallet"].pubkey()),
        treasury_wallet=str(made["treasury-wallet"].pubkey()),
    )
    write_whole(memory, json.dumps(asdict(addresses)))
    return addresses
