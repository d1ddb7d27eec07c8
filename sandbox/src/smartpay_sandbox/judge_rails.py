"""What each processor holds of our payments, read out of the sandbox's own dumps.

The judge believes these and nothing else. Each rail is brought into one form: a Taking is what one
object at the processor has taken, holds, and has given back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]


@dataclass
class Taking:
    """Money of one payer at one processor, in minor units."""

    rail: str
    payment_id: str
    """Ours, as the processor was told; "" for nobody's."""
    object_id: str
    """The processor's id, or a transfer request's reference."""
    currency: str
    held: int = 0
    """Authorized and neither captured nor released."""
    captured: int = 0
    fee: int = 0
    refunds: list[tuple[str, int]] = field(default_factory=list)
    """(our refund's id or the processor's, amount) of all that was or surely will be given back."""


@dataclass(frozen=True)
class Sent:
    """One transfer of a payer to one of our references."""

    reference: str
    payer: str
    minor: int


@dataclass(frozen=True)
class Returned:
    """One refund on the chain."""

    mark: str
    payee: str
    minor: int


def stripe_takings(dump: Json) -> Iterator[Taking]:
    """Reads Stripe's intents, refunds and fees."""
    for account in dump["accounts"].values():
        refunds: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for refund in _values(account["refunds"]):
            if refund["status"] in ("succeeded", "pending"):
                name = str((refund.get("metadata") or {}).get("refund_id", refund["id"]))
                refunds[refund["payment_intent"]].append((name, refund["amount"]))
        fees = {moved["source"]: moved["fee"] for moved in _values(account["balance_transactions"])}
        for intent in _values(account["payment_intents"]):
            held = intent["amount_capturable"] if intent["status"] == "requires_capture" else 0
            taking = Taking(
                "stripe",
                (intent.get("metadata") or {}).get("payment_id", ""),
                intent["id"],
                intent["currency"].upper(),
                held=held,
                captured=intent["amount_received"],
                fee=fees.get(intent["latest_charge"], 0),
                refunds=refunds[intent["id"]],
            )
            if taking.held or taking.captured:
                yield taking


def amazon_pay_takings(dump: Json) -> Iterator[Taking]:
    """Reads Amazon Pay's charges and refunds."""
    for merchant in dump["merchants"].values():
        refunds: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for refund in _values(merchant["refunds"]):
            if refund["statusDetails"]["state"] != "Declined":
                refunds[refund["chargeId"]].append((refund["refundId"], refund["_units"]))
        for charge in _values(merchant["charges"]):
            state, amount = charge["statusDetails"]["state"], charge["chargeAmount"]
            is_held = state in ("Authorized", "AuthorizationInitiated")
            is_taken = state in ("Captured", "CaptureInitiated")
            taking = Taking(
                "amazon_pay",
                charge["merchantMetadata"]["merchantReferenceId"] or "",
                charge["chargeId"],
                amount["currencyCode"],
                held=minor_units(amount) if is_held else 0,
                captured=charge["_captured"] if is_taken else 0,
                refunds=refunds[charge["chargeId"]],
            )
            if taking.held or taking.captured:
                yield taking


def minor_units(amount: Mapping[str, str]) -> int:
    """Reads one of Amazon Pay's decimal amounts; the sandbox writes all places."""
    return int(amount["amount"].replace(".", ""))


def transfers(
    dump: Json, recipients: Iterable[str], mints: Mapping[str, str]
) -> dict[str, list[Sent]]:
    """Reads what payers sent to our wallets, by reference.

    Args:
        dump: GET /control/solana/dump.
        recipients: the wallets that may be paid.
        mints: the currency of each mint; "" is SOL's.
    """
    ours = set(recipients)
    found: dict[str, list[Sent]] = defaultdict(list)
    for reference, rows in dump["transfers"].items():
        for row in rows:
            if row["payee"] in ours and row["mint"] in mints:
                found[reference].append(Sent(reference, row["payer"], int(row["amount"])))
    return found


def returned(dump: Json) -> dict[str, Returned]:
    """Reads the refunds on the chain by their mark; a mark can exist once."""
    return {
        mark: Returned(mark, row["payee"], int(row["amount"]))
        for mark, row in dump["refunds"].items()
    }


def _values(objects: Mapping[str, Json] | Sequence[Json]) -> Iterable[Json]:
    return objects.values() if isinstance(objects, Mapping) else objects
