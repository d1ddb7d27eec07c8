"""Takes payments by Solana Pay: the payer's wallet sends SOL or USDC by itself.

An attempt is a transfer request with a fresh reference. Nothing is called to make one; whether it
is paid is read from the chain. It can't be revoked either, so transfers are watched for some time
after an attempt has ended.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from smartpay_payments.adapters.solana_pay_chain import ChainUnsureError, SolanaChain, Wanted
from smartpay_payments.adapters.solana_pay_refunds import SolanaRefunds
from smartpay_payments.adapters.solana_pay_url import TransferRequest
from smartpay_payments.domain.payment import (
    ActionKind,
    Attempt,
    NextAction,
    Payment,
    PendingCommand,
    Refund,
    RefundStatus,
    Transfer,
)
from smartpay_payments.domain.processor import (
    ActionRequired,
    Canceled,
    Charged,
    Declined,
    NotKnown,
    Outcome,
    RefundOutcome,
    Standing,
)

log = structlog.get_logger()

DECIMALS = {"SOL": 9, "USDC": 6}
# Smaller transfers than the dust limit are listed so often per attempt; each of a flood of them
# would cost us more to keep than the sender to make.
DUST_TRANSFERS_MAX = 20
MESSAGE_CHARACTERS_MAX = 80  # a QR code of more is hard to read for cameras


@dataclass(frozen=True, slots=True)
class SolanaAccount:
    """What a merchant's account on this rail is: a wallet, and the key that pays refunds."""

    recipient: str
    # solders spells a key's secret when it is printed.
    refund_key: Keypair = field(repr=False)


class SolanaPayProcessor:
    """The ports `Processor` and `TransferRail` for accounts on Solana.

    Args:
        accounts: by processor account id; read anew for each payment and refund. It raises
            KeyError or ValueError for one without usable credentials.
        chain: where payers pay.
        usdc_mint: address of USDC's mint on that chain.
        dust: by currency, up to which amount a refund costs more than it gives back.
        late_seconds: how long after its end an attempt is watched.
        livemode: whose payments the chain serves. The other mode's are declined, or coins of a
            test chain would pay live orders.
    """

    def __init__(
        self,
        accounts: Mapping[str, SolanaAccount],
        chain: SolanaChain,
        usdc_mint: str,
        dust: Mapping[str, int],
        late_seconds: float,
        livemode: bool = False,
    ) -> None:
        self._accounts = accounts
        self._chain = chain
        self._mints = {"SOL": "", "USDC": usdc_mint}
        self._dust = dust
        self.late_seconds = late_seconds
        self._livemode = livemode

    async def close(self) -> None:
        """Closes the connections."""
        await self._chain.rpc.close()

    def prepare(self, payment: Payment, processor_account_id: str, attempt_index: int) -> str:
        """Writes the transfer request; its reference is new each time.

        An account that can't be paid has no recipient in it, and is declined.
        """
        order = payment.order
        account = self._account(processor_account_id)
        is_usable = account is not None and payment.livemode is self._livemode
        reference = str(Pubkey(secrets.token_bytes(Pubkey.LENGTH)))
        return json.dumps(
            {
                "recipient": account.recipient if account and is_usable else "",
                "reference": reference,
                "currency": order.amount.currency_code,
                "mint": self._mints[order.amount.currency_code],
                "base_units": order.amount.minor_units,
                "label": order.statement_descriptor,
                "message": (order.description or order.merchant_order_id)[:MESSAGE_CHARACTERS_MAX],
                "genesis_hash": self._chain.genesis_hash,
            }
        )

    async def charge(self, payment: Payment, attempt: Attempt) -> Outcome:
        """Shows the request; the payer has to act, and nobody has been called."""
        body = json.loads(attempt.request_body)
        if not body["recipient"]:
            return Declined("account_not_usable", soft=True)
        return _asked(body, ())

    async def look(self, payment: Payment, attempt: Attempt) -> Outcome:
        """Reads what has come in: all of it, or asks for what is missing."""
        body = json.loads(attempt.request_body)
        try:
            transfers = await self._received(attempt, body)
        except ChainUnsureError as error:
            return NotKnown(error.why, body["reference"])
        if sum(t.minor_units for t in transfers) < body["base_units"]:
            return _asked(body, transfers)
        return Charged(
            body["reference"], body["base_units"], body["base_units"], transfers=transfers
        )

    async def capture(self, payment: Payment, attempt: Attempt, pending: PendingCommand) -> Outcome:
        """Refuses: what was sent is taken already, and nothing is held."""
        return Declined("capture_not_possible", soft=False)

    async def cancel(self, payment: Payment, attempt: Attempt, key: str) -> Outcome:
        """Gives the request up after a last look; what is paid in full isn't given up."""
        outcome = await self.look(payment, attempt)
        if isinstance(outcome, ActionRequired):
            return Canceled(outcome.processor_payment_id, outcome.transfers)
        if isinstance(outcome, Charged):
            return Declined("already_paid", soft=False)
        return outcome

    async def refund(self, payment: Payment, attempt: Attempt, refund: Refund) -> RefundOutcome:
        """Pays back to who sent the transfer that the refund names, or else the first one."""
        body = json.loads(attempt.request_body)
        named = [t for t in attempt.transfers if refund.transfer_id in ("", t.transfer_id)]
        if not named:
            return RefundOutcome(RefundStatus.FAILED, failure_code="no_transfer")
        account = self._account(attempt.processor_account_id)
        if account is None:
            return RefundOutcome(RefundStatus.UNKNOWN)
        desk = SolanaRefunds(self._chain, account.refund_key)
        if refund.processor_refund_id not in ("", desk.mark(refund.refund_id)):
            log.error("the refund key was changed while a refund was open")
            return RefundOutcome(RefundStatus.UNKNOWN)
        try:
            await self._chain.verify(body["genesis_hash"])
            return await desk.give_back(
                refund.refund_id,
                named[0].payer,
                refund.amount.minor_units,
                body["mint"],
                DECIMALS[body["currency"]],
            )
        except ChainUnsureError as error:
            log.warning("a refund's outcome is unknown", why=error.why)
            return RefundOutcome(RefundStatus.UNKNOWN)

    async def standing(self, payment: Payment, attempt: Attempt) -> Standing | None:
        """Answers nothing: there are no disputes, and the payer pays the fees."""
        return Standing()

    def dust_minor(self, currency_code: str) -> int:
        """Says up to which amount fees and rent of a refund are more than it gives back."""
        return self._dust[currency_code]

    async def transfers(self, payment: Payment, attempt: Attempt) -> Sequence[Transfer] | None:
        """Reads every final transfer to an attempt; None when the chain can't be read now."""
        try:
            return await self._received(attempt, json.loads(attempt.request_body))
        except ChainUnsureError:
            return None

    def _account(self, processor_account_id: str) -> SolanaAccount | None:
        try:
            return self._accounts[processor_account_id]
        except (KeyError, ValueError):
            log.error(
                "a Solana account has no usable credentials",
                processor_account_id=processor_account_id,
            )
            return None

    async def _received(self, attempt: Attempt, body: Mapping[str, Any]) -> tuple[Transfer, ...]:
        """Reads the transfers of an attempt.

        What is booked was final, so it stays, even when a node has forgotten it.
        """
        if not body["recipient"]:
            return ()
        await self._chain.verify(body["genesis_hash"])
        seen = await self._chain.transfers(
            Wanted(body["recipient"], body["reference"], body["mint"])
        )
        booked = {t.transfer_id for t in attempt.transfers}
        dust_left = DUST_TRANSFERS_MAX
        listed = list(attempt.transfers)
        for transfer in seen:
            if transfer.minor_units <= self._dust[body["currency"]]:
                dust_left -= 1
                if dust_left < 0:
                    continue
            if transfer.transfer_id not in booked:
                listed.append(transfer)
        return tuple(listed)


def _asked(body: Mapping[str, Any], transfers: tuple[Transfer, ...]) -> ActionRequired:
    request = TransferRequest(
        recipient=body["recipient"],
        base_units=body["base_units"] - sum(t.minor_units for t in transfers),
        decimals=DECIMALS[body["currency"]],
        reference=body["reference"],
        spl_token=body["mint"],
        label=body["label"],
        message=body["message"],
    )
    action = NextAction(ActionKind.SOLANA_PAY, request.url)
    return ActionRequired(body["reference"], action, transfers)
