"""Gives money back on Solana exactly once: the transfer and a mark account are one transaction.

The mark's address is create_with_seed(refund key, HMAC-SHA256(refund key, refund_id)). It can be
made once, so whatever is sent again, after a crash, a lost answer or an expired blockhash, fails
as a whole at its first instruction. The HMAC hides the address until then, so that nobody can fund
it first. A transfer that the payer's account refuses is given up by making the mark alone: after
that no copy of it can land any more. The same holds for a new refund key only once nothing signed
by the old one is open: change it when no refund is pending.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

import structlog
from solana.rpc.jsonrpc import SolanaJsonRpcError
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.system_program import (
    CreateAccountWithSeedParams,
    TransferParams,
    create_account_with_seed,
    transfer,
)
from solders.transaction import VersionedTransaction
from spl.memo.constants import MEMO_PROGRAM_ID
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import (
    create_idempotent_associated_token_account,
    get_associated_token_address,
    transfer_checked,
)
from spl.token.models import TransferCheckedParams
from typing_extensions import TypedDict

from smartpay_payments.adapters.solana_pay_chain import (
    ChainUnsureError,
    SolanaChain,
    TransactionView,
    keys_of,
    movements,
    token_account,
)
from smartpay_payments.domain.payment import RefundStatus
from smartpay_payments.domain.processor import RefundOutcome

log = structlog.get_logger()

SEED_CHARACTERS = 32  # the System program's limit for a seed
CONFIRMED = {"commitment": "confirmed"}
ALREADY_MARKED = {"InstructionError": [0, {"Custom": 0}]}  # "already in use", by the first of all
# Nothing pays the fee, the mark's rent, the token account's rent, or the SOL given back.
NO_LAMPORTS: tuple[object, ...] = (
    {"InstructionError": [0, {"Custom": 1}]},
    {"InstructionError": [1, {"Custom": 1}]},
    "InsufficientFundsForFee",
    "AccountNotFound",
)
UNFUNDED = "refund_wallet_unfunded"
UNUSABLE = "payer_account_unusable"


class _Account(TypedDict):
    """As much of an account as tells that it exists."""

    lamports: int


class _AccountValue(TypedDict):
    value: _Account | None


class _Blockhash(TypedDict):
    blockhash: str


class _BlockhashValue(TypedDict):
    value: _Blockhash


class _TokenAmount(TypedDict):
    amount: str


class _TokenValue(TypedDict):
    value: _TokenAmount


class SolanaRefunds:
    """Refunds out of one wallet.

    Args:
        chain: where it is paid.
        key: the wallet's; it also pays fees and rent.
    """

    def __init__(self, chain: SolanaChain, key: Keypair) -> None:
        self._chain = chain
        self._key = key

    @property
    def wallet(self) -> str:
        """The wallet's address, which has to be kept funded."""
        return str(self._key.pubkey())

    def mark(self, refund_id: str) -> str:
        """Names the account that can exist once, for this refund."""
        return str(
            Pubkey.create_with_seed(self._key.pubkey(), self._seed(refund_id), SYSTEM_PROGRAM_ID)
        )

    async def give_back(
        self, refund_id: str, payer: str, base_units: int, mint: str, decimals: int
    ) -> RefundOutcome:
        """Pays, or finds out how an earlier call ended; may be repeated without end.

        Args:
            refund_id: makes the mark.
            payer: the wallet that gets it.
            base_units: how much.
            mint: the token's; empty pays SOL.
            decimals: the token's.

        Raises:
            ChainUnsureError: the chain gave no usable answer.
        """
        mark = self.mark(refund_id)
        if await self._exists(mark):
            return await self._how_it_ended(mark, payer, base_units, mint)
        if mint:
            payment = self._token_payment(payer, base_units, mint, decimals)
        else:
            payment = self._sol_payment(payer, base_units)
        cause = await self._send(refund_id, payment)
        if cause is None:
            return RefundOutcome(RefundStatus.PENDING, mark)
        if await self._is_unfunded(cause, base_units, mint):
            log.error("the refund wallet has not enough", wallet=self.wallet, mint=mint)
            return RefundOutcome(RefundStatus.PENDING, mark, UNFUNDED)
        log.warning("a payer's account refuses a refund", refund_id=refund_id, cause=str(cause))
        # Only a mark proves that no earlier copy can land either.
        await self._send(refund_id, [])
        return RefundOutcome(RefundStatus.PENDING, mark, UNUSABLE)

    async def _how_it_ended(
        self, mark: str, payer: str, base_units: int, mint: str
    ) -> RefundOutcome:
        """Reads the transaction that made the mark, once it is final."""
        history = await self._chain.history(mark)
        if not history:
            return RefundOutcome(RefundStatus.PENDING, mark)
        destination = token_account(payer, mint) if mint else payer
        for signature in history:
            view = await self._chain.transaction(signature)
            keys = keys_of(view)
            if keys[0] != self.wallet:
                continue
            if _pays(view, destination, base_units):
                return RefundOutcome(RefundStatus.SUCCEEDED, mark)
            return RefundOutcome(RefundStatus.FAILED, mark, UNUSABLE)
        # Somebody sent lamports to the address before us; then it can never be made.
        log.error("a refund's mark is not ours", mark=mark)
        raise ChainUnsureError("mark_is_foreign")

    async def _exists(self, address: str) -> bool:
        options = {**CONFIRMED, "encoding": "base64", "dataSlice": {"offset": 0, "length": 0}}
        answer = await self._chain.rpc.ask(_AccountValue, "getAccountInfo", address, options)
        return answer["value"] is not None

    async def _send(self, refund_id: str, payment: list[Instruction]) -> object:
        """Sends a transaction with the mark; answers why it was refused, None when it was not.

        Raises:
            ChainUnsureError: nobody knows whether it was taken.
        """
        rpc, wallet = self._chain.rpc, self._key.pubkey()
        rent = await self._chain.rent_of_nothing()
        told = await rpc.ask(_BlockhashValue, "getLatestBlockhash", CONFIRMED)
        seed = self._seed(refund_id)
        mark = create_account_with_seed(
            CreateAccountWithSeedParams(
                from_pubkey=wallet,
                to_pubkey=Pubkey.create_with_seed(wallet, seed, SYSTEM_PROGRAM_ID),
                base=wallet,
                seed=seed,
                lamports=rent,
                space=0,
                owner=SYSTEM_PROGRAM_ID,
            )
        )
        # For anybody who reads the chain: which refund this is.
        signer = AccountMeta(wallet, is_signer=True, is_writable=True)
        memo = Instruction(MEMO_PROGRAM_ID, refund_id.encode(), [signer])
        # The mark stands first: an error of instruction 0 can mean nothing else.
        message = MessageV0.try_compile(
            wallet, [mark, *payment, memo], [], Hash.from_string(told["value"]["blockhash"])
        )
        wire = bytes(VersionedTransaction(message, [self._key]))
        options = {"encoding": "base64", "preflightCommitment": "confirmed"}
        try:
            await rpc.call(str, "sendTransaction", base64.b64encode(wire).decode(), options)
        except SolanaJsonRpcError as error:
            cause: object = error.data.get("err") if isinstance(error.data, dict) else None
            if cause in (ALREADY_MARKED, "AlreadyProcessed"):
                return None
            if cause is None or cause == "BlockhashNotFound":
                # A node that is behind, busy or limits us says nothing about the refund.
                raise ChainUnsureError(f"rpc_error_{error.code}") from error
            return cause
        return None

    async def _is_unfunded(self, cause: object, base_units: int, mint: str) -> bool:
        """Tells our own want of money from what is wrong with the payer's account."""
        if cause in NO_LAMPORTS:
            return True
        if isinstance(cause, dict) and "InsufficientFundsForRent" in cause:
            return bool(cause["InsufficientFundsForRent"] == {"account_index": 0})
        if not mint:
            return False
        ours = token_account(self.wallet, mint)
        try:
            held = await self._chain.rpc.call(
                _TokenValue, "getTokenAccountBalance", ours, CONFIRMED
            )
        except SolanaJsonRpcError:
            return True  # no such account: nobody has funded it yet
        return int(held["value"]["amount"]) < base_units

    def _seed(self, refund_id: str) -> str:
        secret = bytes(self._key)[:32]
        return hmac.new(secret, refund_id.encode(), hashlib.sha256).hexdigest()[:SEED_CHARACTERS]

    def _sol_payment(self, payer: str, lamports: int) -> list[Instruction]:
        to = Pubkey.from_string(payer)
        params = TransferParams(from_pubkey=self._key.pubkey(), to_pubkey=to, lamports=lamports)
        return [transfer(params)]

    def _token_payment(
        self, payer: str, base_units: int, mint: str, decimals: int
    ) -> list[Instruction]:
        wallet, to, token = self._key.pubkey(), Pubkey.from_string(payer), Pubkey.from_string(mint)
        return [
            # The payer may have closed theirs since.
            create_idempotent_associated_token_account(wallet, to, token),
            transfer_checked(
                TransferCheckedParams(
                    program_id=TOKEN_PROGRAM_ID,
                    source=get_associated_token_address(wallet, token),
                    mint=token,
                    dest=get_associated_token_address(to, token),
                    owner=wallet,
                    amount=base_units,
                    decimals=decimals,
                    signers=[],
                )
            ),
        ]


def _pays(view: TransactionView, destination: str, base_units: int) -> bool:
    keys = keys_of(view)
    return any(
        keys[movement.destination] == destination and movement.base_units == base_units
        for movement in movements(view)
    )
