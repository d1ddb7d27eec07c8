"""Mints on Solana exactly once: the mint and a receipt account are one transaction.

The receipt's address is create_with_seed(issuer, HMAC-SHA256(key, payment_id)); a second
transaction for the same payment fails as a whole at its first instruction, with "already in use".
The HMAC hides the address, so that nobody can fund it first. Only `send_rpc_request` is used: the
client's typed calls panic past `except Exception` on answers they do not expect.

Sources: solana.com/docs/rpc/http, the System, SPL Token, Associated Token Account and Memo
programs.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar, cast

from pydantic import ValidationError
from solana.exceptions import SolanaRpcException
from solana.rpc.async_api import AsyncClient
from solana.rpc.jsonrpc import JsonRpcRequest, SolanaJsonRpcError
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.system_program import CreateAccountWithSeedParams, create_account_with_seed
from solders.transaction import VersionedTransaction
from spl.memo.constants import MEMO_PROGRAM_ID
from spl.token.constants import ASSOCIATED_TOKEN_PROGRAM_ID, MINT_LEN, TOKEN_PROGRAM_ID
from spl.token.instructions import (
    create_idempotent_associated_token_account,
    get_associated_token_address,
    mint_to_checked,
)
from spl.token.models import MintToCheckedParams
from typing_extensions import TypedDict  # pydantic asks for this one below Python 3.12

from smartpay_rewards.domain.issuance import (
    AlreadyMarkedError,
    ChainIdentity,
    ChainRefusedError,
    ChainUnsureError,
    Minted,
    MintOrder,
    Prepared,
    ReceiptForeignError,
    WrongChainError,
)
from smartpay_rewards.domain.reward import TOKEN_DECIMALS

ACCOUNTS_PER_CALL_MAX = 100  # the cluster's limit for getMultipleAccounts
STATUSES_PER_CALL_MAX = 256  # the cluster's limit for getSignatureStatuses
SEED_CHARACTERS = 32  # the System program's limit for a seed
MINT_TO_CHECKED = 14  # the SPL Token program's number of the instruction
RECEIPT_HISTORY_MAX = 1000  # one page; a receipt has one success and a few refusals at most

# The System program's "not enough lamports", for the receipt and for the token account, and the
# runtime's for the fee: the issuer's trouble, not the payment's.
OUT_OF_FUNDS: tuple[object, ...] = (
    {"InstructionError": [0, {"Custom": 1}]},
    {"InstructionError": [1, {"Custom": 1}]},
    "InsufficientFundsForFee",
    "AccountNotFound",
)

T = TypeVar("T")


class AccountView(TypedDict):
    """What getAccountInfo tells of an account in base64."""

    owner: str
    data: tuple[str, str]


class AccountValue(TypedDict):
    """The answer of getAccountInfo."""

    value: AccountView | None


class AccountValues(TypedDict):
    """The answer of getMultipleAccounts."""

    value: list[AccountView | None]


class Blockhash(TypedDict):
    """A blockhash that new transactions may name."""

    blockhash: str


class BlockhashValue(TypedDict):
    """The answer of getLatestBlockhash."""

    value: Blockhash


class Status(TypedDict):
    """What became of a transaction."""

    confirmationStatus: str | None
    err: object


class StatusValues(TypedDict):
    """The answer of getSignatureStatuses."""

    value: list[Status | None]


class HistoryRow(TypedDict):
    """One transaction that names an address."""

    signature: str
    err: object


class TransactionView(TypedDict):
    """The answer of getTransaction in base64."""

    transaction: tuple[str, str]


# What lags behind or never was is told as null.
MaybeTransaction = cast("type[TransactionView | None]", TransactionView | None)


class SolanaRpc:
    """One JSON-RPC connection pool. Every failure to get an answer is ChainUnsureError.

    Args:
        url: the node's address.
        timeout_seconds: for one call.
        connections_max: sockets kept; calls beyond wait in the pool.
    """

    def __init__(self, url: str, *, timeout_seconds: float, connections_max: int) -> None:
        # The client's own silent second post would hide from us how often we asked.
        self._client = AsyncClient(
            url,
            timeout=timeout_seconds,
            max_connections=connections_max,
            http2=False,
            max_transport_retries=0,
        )

    async def call(self, answer_type: type[T], method: str, *params: object) -> T:
        """Call a method and return its result, checked to have the type.

        Raises:
            SolanaJsonRpcError: the node answered with an error.
            ChainUnsureError: the node gave no answer that can be used.
        """
        request = JsonRpcRequest(method=method, params=list(params))
        try:
            return await self._client.send_rpc_request(request, answer_type)
        except (SolanaRpcException, ValidationError) as error:
            raise ChainUnsureError(
                f"{method}: {type(error.__cause__ or error).__name__}"
            ) from error

    async def ask(self, answer_type: type[T], method: str, *params: object) -> T:
        """Call a method that only reads: an error answer leaves us as wise as no answer."""
        try:
            return await self.call(answer_type, method, *params)
        except SolanaJsonRpcError as error:
            raise ChainUnsureError(f"{method}: error {error.code}") from error

    async def close(self) -> None:
        """Close the pool."""
        await self._client.close()


class SolanaChain:
    """The reward chain, seen by the one key that may mint.

    Args:
        rpc: the node.
        issuer: mint authority, payer of fees and rent, and base of every receipt address.
        mint: the reward token.
        receipt_key: HMAC key of the receipt addresses; a new one would mint everything anew.
        own_wallets: addresses that never get rewards, such as the treasury.
        blockhash_seconds: how long one blockhash is used; it lives for about 60 seconds.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        rpc: SolanaRpc,
        issuer: Keypair,
        mint: Pubkey,
        receipt_key: bytes,
        *,
        own_wallets: Collection[str] = (),
        blockhash_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rpc = rpc
        self._issuer = issuer
        self._mint = mint
        self._receipt_key = receipt_key
        self._own_wallets = {str(issuer.pubkey()), str(mint), *own_wallets}
        self._blockhash_seconds = blockhash_seconds
        self._monotonic = monotonic
        self._blockhash: tuple[Hash, float] | None = None
        self._receipt_lamports: int | None = None
        self._fetching = asyncio.Lock()

    async def identity(self) -> ChainIdentity:
        """Ask the chain who it is; raises WrongChainError when the mint is not usable here."""
        options = {"encoding": "base64", "commitment": "confirmed"}
        answer = await self._rpc.ask(AccountValue, "getAccountInfo", str(self._mint), options)
        problem = mint_problem(answer["value"], self._issuer.pubkey())
        if problem:
            raise WrongChainError(
                f"The mint {self._mint} {problem}. Run smartpay_rewards.deploy against this chain, "
                "or correct SPL_TOKEN_MINT_ADDRESS, MINT_AUTHORITY_SECRET_KEY or SOLANA_RPC_URL."
            )
        return ChainIdentity(
            genesis_hash=await self._rpc.ask(str, "getGenesisHash"),
            mint=str(self._mint),
            issuer=str(self._issuer.pubkey()),
            receipt_key_digest=hashlib.sha256(self._receipt_key).hexdigest(),
        )

    def receipt_address(self, payment_id: str) -> str:
        """Return the address that can exist once, for this payment."""
        return str(self._receipt(payment_id))

    def can_hold(self, wallet: str) -> bool:
        """Whether an address is a person's: on the curve, so no program's, and none of ours."""
        try:
            return Pubkey.from_string(wallet).is_on_curve() and wallet not in self._own_wallets
        except ValueError:
            return False

    async def marked(self, payment_ids: Sequence[str]) -> frozenset[str]:
        """Return the payments whose receipt exists finally."""
        found: set[str] = set()
        # Only existence is asked, so no byte of data is.
        options = {
            "encoding": "base64",
            "commitment": "finalized",
            "dataSlice": {"offset": 0, "length": 0},
        }
        for at in range(0, len(payment_ids), ACCOUNTS_PER_CALL_MAX):
            chunk = payment_ids[at : at + ACCOUNTS_PER_CALL_MAX]
            addresses = [self.receipt_address(each) for each in chunk]
            answer = await self._rpc.ask(AccountValues, "getMultipleAccounts", addresses, options)
            pairs = _paired("getMultipleAccounts", chunk, answer["value"])
            found.update(payment_id for payment_id, account in pairs if account is not None)
        return frozenset(found)

    async def landed(self, signatures: Collection[str]) -> frozenset[str]:
        """Return the transactions that are final and without error."""
        found: set[str] = set()
        asked = list(signatures)
        for at in range(0, len(asked), STATUSES_PER_CALL_MAX):
            chunk = asked[at : at + STATUSES_PER_CALL_MAX]
            answer = await self._rpc.ask(StatusValues, "getSignatureStatuses", chunk)
            for signature, status in _paired("getSignatureStatuses", chunk, answer["value"]):
                if status is None or status["err"] is not None:
                    continue
                if status["confirmationStatus"] == "finalized":
                    found.add(signature)
        return frozenset(found)

    async def minted(self, payment_id: str) -> Minted | None:
        """Read what a final receipt's transaction minted; None when history lags behind.

        Raises:
            ReceiptForeignError: no transaction of the receipt minted.
        """
        address = self.receipt_address(payment_id)
        options = {"commitment": "finalized", "limit": RECEIPT_HISTORY_MAX}
        history = await self._rpc.ask(list[HistoryRow], "getSignaturesForAddress", address, options)
        successes = [row["signature"] for row in history if row["err"] is None]
        for signature in reversed(successes):
            options = {
                "commitment": "finalized",
                "encoding": "base64",
                "maxSupportedTransactionVersion": 0,
            }
            body = await self._rpc.ask(MaybeTransaction, "getTransaction", signature, options)
            if body is None:
                return None
            minted = self._read(body["transaction"][0], signature)
            if minted is not None:
                return minted
        if successes:
            raise ReceiptForeignError(address)
        return None

    async def prepare(self, order: MintOrder) -> Prepared:
        """Sign the one transaction that marks and mints."""
        await self._refresh()
        assert self._blockhash is not None
        assert self._receipt_lamports is not None
        instructions = self._instructions(order, self._receipt_lamports)
        message = MessageV0.try_compile(self._issuer.pubkey(), instructions, [], self._blockhash[0])
        transaction = VersionedTransaction(message, [self._issuer])
        return Prepared(str(transaction.signatures[0]), bytes(transaction))

    async def submit(self, prepared: Prepared) -> None:
        """Send it; preflight refuses a repeated mint without a fee.

        Raises:
            AlreadyMarkedError: the receipt exists.
            ChainRefusedError: it was refused and did nothing.
        """
        options = {"encoding": "base64", "preflightCommitment": "confirmed"}
        text = base64.b64encode(prepared.wire).decode()
        try:
            await self._rpc.call(str, "sendTransaction", text, options)
        except SolanaJsonRpcError as error:
            self._read_refusal(error)

    def _read_refusal(self, error: SolanaJsonRpcError) -> None:
        """Turn a node's error into what it means for the reward; returns when it is no error."""
        cause = error.data.get("err") if isinstance(error.data, dict) else None
        if cause == "AlreadyProcessed":
            return
        if cause == {"InstructionError": [0, {"Custom": 0}]}:
            raise AlreadyMarkedError from error
        if cause == "BlockhashNotFound":
            self._blockhash = None
        if cause is None:
            # A node that is behind, busy or limits us says nothing about the transaction.
            raise ChainUnsureError(f"sendTransaction: error {error.code}") from error
        if cause in OUT_OF_FUNDS or (
            isinstance(cause, dict) and "InsufficientFundsForRent" in cause
        ):
            reason = f"ISSUER_UNFUNDED: {self._issuer.pubkey()} needs more SOL for fees and rent."
            raise ChainRefusedError(reason, by_rule=False) from error
        by_rule = isinstance(cause, dict) and "InstructionError" in cause
        raise ChainRefusedError(f"CHAIN_REFUSED: {cause}", by_rule=by_rule) from error

    async def _refresh(self) -> None:
        """Fetch a blockhash when the one at hand is old; one caller fetches for all."""
        async with self._fetching:
            if self._receipt_lamports is None:
                rent = await self._rpc.ask(int, "getMinimumBalanceForRentExemption", 0)
                self._receipt_lamports = rent
            now = self._monotonic()
            if self._blockhash is None or now >= self._blockhash[1] + self._blockhash_seconds:
                options = {"commitment": "confirmed"}
                answer = await self._rpc.ask(BlockhashValue, "getLatestBlockhash", options)
                self._blockhash = Hash.from_string(answer["value"]["blockhash"]), now

    def _seed(self, payment_id: str) -> str:
        digest = hmac.new(self._receipt_key, payment_id.encode(), hashlib.sha256).hexdigest()
        return digest[:SEED_CHARACTERS]

    def _receipt(self, payment_id: str) -> Pubkey:
        seed = self._seed(payment_id)
        return Pubkey.create_with_seed(self._issuer.pubkey(), seed, SYSTEM_PROGRAM_ID)

    def _instructions(self, order: MintOrder, receipt_lamports: int) -> list[Instruction]:
        issuer, wallet = self._issuer.pubkey(), Pubkey.from_string(order.wallet)
        receipt = create_account_with_seed(
            CreateAccountWithSeedParams(
                from_pubkey=issuer,
                to_pubkey=self._receipt(order.payment_id),
                base=issuer,
                seed=self._seed(order.payment_id),
                lamports=receipt_lamports,
                space=0,
                owner=SYSTEM_PROGRAM_ID,
            )
        )
        mint = mint_to_checked(
            MintToCheckedParams(
                program_id=TOKEN_PROGRAM_ID,
                mint=self._mint,
                dest=get_associated_token_address(wallet, self._mint),
                mint_authority=issuer,
                amount=order.token_base_units,
                decimals=TOKEN_DECIMALS,
                signers=[],
            )
        )
        # The memo ties the transaction to the payment for anybody who reads the chain.
        signer = AccountMeta(issuer, is_signer=True, is_writable=True)
        memo = Instruction(MEMO_PROGRAM_ID, order.payment_id.encode(), [signer])
        account = create_idempotent_associated_token_account(issuer, wallet, self._mint)
        # The receipt stands first: an error of instruction 0 can mean nothing else.
        return [receipt, account, mint, memo]

    def _read(self, text: str, signature: str) -> Minted | None:
        """Read wallet and amount out of a transaction of ours; None when it did not mint."""
        try:
            message = VersionedTransaction.from_bytes(base64.b64decode(text)).message
        except ValueError as error:
            raise ChainUnsureError("getTransaction: unreadable transaction") from error
        keys = message.account_keys
        wallet, amount = None, None
        for instruction in message.instructions:
            program = keys[instruction.program_id_index]
            accounts = [keys[index] for index in instruction.accounts if index < len(keys)]
            data = bytes(instruction.data)
            if program == ASSOCIATED_TOKEN_PROGRAM_ID and len(accounts) > 3:
                wallet = accounts[2]
            elif program == TOKEN_PROGRAM_ID and data[:1] == bytes([MINT_TO_CHECKED]):
                amount = int.from_bytes(data[1:9], "little") if accounts[0] == self._mint else None
        if wallet is None or amount is None:
            return None
        return Minted(signature, str(wallet), amount)


def _paired(method: str, asked: Sequence[str], told: Sequence[T]) -> Iterable[tuple[str, T]]:
    if len(asked) != len(told):
        raise ChainUnsureError(f"{method}: {len(told)} answers to {len(asked)} questions")
    return zip(asked, told, strict=True)


def mint_problem(account: AccountView | None, authority: Pubkey) -> str:
    """Say what keeps an account from being our mint; "" when nothing does.

    Args:
        account: the value of getAccountInfo, or None.
        authority: who must be able to mint.
    """
    if account is None:
        return "does not exist"
    data = base64.b64decode(account["data"][0])
    if account["owner"] != str(TOKEN_PROGRAM_ID) or len(data) != MINT_LEN:
        return "is no SPL Token mint"
    # SPL Token `Mint`: authority option u32 and key, supply u64, decimals u8, ...
    if data[:4] != b"\1\0\0\0" or data[4:36] != bytes(authority):
        return f"does not obey {authority}"
    return "" if data[44] == TOKEN_DECIMALS else f"has not {TOKEN_DECIMALS} decimals"
