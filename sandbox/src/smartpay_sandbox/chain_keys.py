"""The keys of the development chain: who mints, which mint, whose wallets."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, fields

from smartpay_sandbox.run_folder import RunFolder, read_json, write_whole

RECEIPT_KEY_BYTES = 32
AUTHORITY = "mint-authority"
MINT = "mint"
RECEIPT_KEY = "rewards-receipt-key"
REFUND_KEY = "refund-wallet"


# The file of each key whose address somebody else must know.
_FILES = {
    "mint": MINT,
    "default_wallet": "default-wallet",
    "treasury_wallet": "treasury-wallet",
    "refund_wallet": REFUND_KEY,
}


@dataclass(frozen=True)
class ChainAddresses:
    """Public addresses, base58."""

    mint: str
    default_wallet: str
    treasury_wallet: str
    refund_wallet: str
    usdc_mint: str


def establish(run: RunFolder) -> ChainAddresses:
    """Makes the keys once, each in a file for this user alone, and answers the addresses."""
    memory = run.state / "chain.json"
    known: dict[str, str] = read_json(memory) or {}
    names = {field.name for field in fields(ChainAddresses)}
    if known.keys() == names:
        return ChainAddresses(**known)
    # Only a first start pays for these.
    from solders.keypair import Keypair

    from smartpay_sandbox.solana_wallets import USDC_MINT

    made = {name: Keypair() for name in _FILES if name not in known}
    for name, keypair in made.items():
        write_whole(run.secret(_FILES[name]), json.dumps(list(bytes(keypair))), mode=0o600)
    if not known:
        write_whole(run.secret(AUTHORITY), json.dumps(list(bytes(Keypair()))), mode=0o600)
        write_whole(run.secret(RECEIPT_KEY), secrets.token_hex(RECEIPT_KEY_BYTES), mode=0o600)
    addresses = ChainAddresses(
        **known
        | {name: str(keypair.pubkey()) for name, keypair in made.items()}
        | {"usdc_mint": USDC_MINT}
    )
    write_whole(memory, json.dumps(asdict(addresses)))
    return addresses
