"""What the sandbox's chain hands to a judge."""

from __future__ import annotations

import json
from typing import Any

from smartpay_sandbox.solana_ledger import SolanaLedger
from smartpay_sandbox.solana_views import mint_of, token_account_of


def dump_of(ledger: SolanaLedger) -> dict[str, Any]:
    """Return supplies, token accounts, receipts, memos, transfers and refunds."""
    tokens = list(ledger.token_accounts())
    mints = {key: mint for key, account in tokens if (mint := mint_of(account))}
    held = {key: token for key, account in tokens if (token := token_account_of(account))}
    receipt_lamports = ledger.rent_exempt_lamports(0)
    return {
        "genesis_hash": ledger.genesis_hash,
        "slot": ledger.slot,
        "transactions": ledger.landed_count(),
        "mints": {
            str(key): {
                "supply": str(mint.supply),
                "decimals": mint.decimals,
                "authority": None if mint.authority is None else str(mint.authority),
            }
            for key, mint in mints.items()
        },
        "token_accounts": [
            {
                "address": str(key),
                "mint": str(token.mint),
                "owner": str(token.owner),
                "amount": str(token.amount),
            }
            for key, token in sorted(held.items(), key=lambda row: str(row[0]))
        ],
        "receipts": sorted(
            str(key)
            for key, account in ledger.system_accounts()
            if account.lamports == receipt_lamports and not account.data
        ),
        "memos": ledger.memo_counts(),
        **_judged(ledger.movements()),
    }


def _judged(rows: list[tuple[str, int, str]]) -> dict[str, Any]:
    """Return transfers by first reference and refunds by mark.

    Args:
        rows: (signature, slot, movement as JSON), in the order of the chain.
    """
    transfers: dict[str, list[dict[str, Any]]] = {}
    refunds: dict[str, dict[str, Any]] = {}
    for signature, slot, text in rows:
        told = json.loads(text) | {"signature": signature, "slot": slot}
        if told["mark"]:
            refunds[told["mark"]] = told
        elif told["references"]:
            transfers.setdefault(told["references"][0], []).append(told)
    return {"transfers": transfers, "refunds": refunds}
