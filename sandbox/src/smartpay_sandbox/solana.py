"""A local Solana node: JSON-RPC over a real SVM, durable, with failures on demand.

Methods and shapes follow solana.com/docs/rpc/http, as far as an unmodified client and a curious
developer need them. Not served: batches of requests, WebSocket, blocks, stake.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from solders.message import from_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from smartpay_sandbox.simulator import hang_up
from smartpay_sandbox.solana_dump import dump_of
from smartpay_sandbox.solana_faults import Faults
from smartpay_sandbox.solana_ledger import (
    BLOCKHASH_AGE_SLOTS_MAX,
    FINALITY_SLOTS,
    Landed,
    SolanaLedger,
    Verdict,
)
from smartpay_sandbox.solana_views import (
    TOKEN_PROGRAM_IDS,
    Json,
    Mint,
    account_json,
    error_text,
    mint_of,
    token_account_of,
    token_amount,
    transaction_json,
    version_of,
)
from smartpay_sandbox.solana_wallets import Funds, PayOrder, Wallets
from smartpay_sandbox.solana_wire import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    NODE_UNHEALTHY,
    PARSE_ERROR,
    PREFLIGHT_FAILURE,
    SIGNATURE_VERIFICATION_FAILURE,
    UNSUPPORTED_TRANSACTION_VERSION,
    Params,
    RpcError,
    address_of,
    at_least_confirmed,
    commitment_of,
    data_slice_of,
    decode,
    signature_of,
    transaction_of,
)

REQUEST_BYTES_MAX = 50 * 1024  # a validator's own default for --rpc-max-request-body-size
ACCOUNTS_PER_CALL_MAX = 100  # MAX_MULTIPLE_ACCOUNTS of the Agave validator
STATUSES_PER_CALL_MAX = 256  # MAX_GET_SIGNATURE_STATUSES_QUERY_ITEMS of the Agave validator
HISTORY_PER_CALL_MAX = 1000  # MAX_GET_CONFIRMED_SIGNATURES_FOR_ADDRESS2_LIMIT of the same
AIRDROP_LAMPORTS_MAX = 1_000_000 * 10**9  # keeps one slip from emptying the faucet
SIGNATURE_FEE_LAMPORTS = 5_000  # the cluster's base fee per signature
FEATURE_SET = 0  # no validator release: an honest client can see that this is none


Method = Callable[[Params], Json]


class SolanaSimulator:
    """The sandbox's Solana node; it is ready between `start` and `stop`.

    Args:
        state_dir: folder of its one SQLite file; a second start there continues the same chain.
        clock: seconds since 1970; slots follow it.
        confirmed_slots: how many slots of 400 ms pass before a transaction is confirmed.
        final_slots: how many before it is finalized; a real cluster needs 32.
        funds: wallets that have coins from the start.
    """

    def __init__(
        self,
        state_dir: Path,
        clock: Callable[[], float] = time.time,
        *,
        confirmed_slots: int = 0,
        final_slots: int = FINALITY_SLOTS,
        funds: Sequence[Funds] = (),
    ) -> None:
        self._state_dir = state_dir
        self._clock = clock
        self._steps = (confirmed_slots, final_slots)
        self._funds = funds
        self._faults = Faults()
        self._started: SolanaLedger | None = None
        # Any path answers, so that the node works mounted, and with or without a last slash.
        self.app = Starlette(routes=[Route("/{path:path}", self._serve, methods=["POST"])])
        self._methods: dict[str, Method] = {
            "getAccountInfo": self._get_account_info,
            "getBalance": self._get_balance,
            "getBlockHeight": lambda p: self._slot_for(p.options(0)),
            "getFeeForMessage": self._get_fee_for_message,
            "getGenesisHash": lambda _: self._ledger.genesis_hash,
            "getHealth": lambda _: "ok",
            "getLatestBlockhash": self._get_latest_blockhash,
            "getMinimumBalanceForRentExemption": lambda p: self._ledger.rent_exempt_lamports(
                p.at(0, int)
            ),
            "getMultipleAccounts": self._get_multiple_accounts,
            "getSignatureStatuses": self._get_signature_statuses,
            "getSignaturesForAddress": self._get_signatures_for_address,
            "getSlot": lambda p: self._slot_for(p.options(0)),
            "getTokenAccountBalance": self._get_token_account_balance,
            "getTokenAccountsByOwner": self._get_token_accounts_by_owner,
            "getTokenSupply": self._get_token_supply,
            "getTransaction": self._get_transaction,
            "getTransactionCount": lambda _: self._ledger.landed_count(),
            "getVersion": lambda _: {"solana-core": _CORE_VERSION, "feature-set": FEATURE_SET},
            "isBlockhashValid": self._is_blockhash_valid,
            "requestAirdrop": self._request_airdrop,
            "sendTransaction": self._send_transaction,
            "simulateTransaction": self._simulate_transaction,
        }

    # --- the simulator's own doors ---

    async def start(self) -> None:
        """Open the chain of the state folder, or begin a new one."""
        self._state_dir.mkdir(parents=True, exist_ok=True)
        path = self._state_dir / "solana.sqlite"
        self._started = SolanaLedger(path, self._clock, *self._steps)
        for each in self._funds:
            self.fund(each)

    async def stop(self) -> None:
        """Close the file; safe to call twice."""
        if self._started is not None:
            self._started.close()
            self._started = None

    def set_faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace the fault rules; raises FaultRuleError naming the wrong field."""
        self._faults.set(rules)

    def clear_faults(self) -> None:
        """Drop all fault rules."""
        self._faults.clear()

    def fund(self, funds: Funds) -> None:
        """Fill a wallet up; raises ValueError for what can't be read."""
        Wallets(self._ledger).fund(funds)

    def pay(self, order: PayOrder) -> dict[str, str]:
        """Pay as a wallet would; raises ValueError for what no wallet would do."""
        return Wallets(self._ledger).pay(order)

    def dump(self) -> dict[str, Any]:
        """Return what a judge needs: supplies, accounts, receipts, memos, transfers, refunds.

        A receipt is a System account that holds exactly the rent of an empty account and no data.
        Transfers stand under the first key they name beside their own, refunds under their mark.
        """
        return dump_of(self._ledger)

    @property
    def _ledger(self) -> SolanaLedger:
        if self._started is None:
            raise RuntimeError("the Solana simulator is not started")
        return self._started

    # --- one request ---

    async def _serve(self, request: Request) -> Response:
        raw = bytearray()
        try:
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > REQUEST_BYTES_MAX:
                    return PlainTextResponse("request body too large", status_code=413)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is left to read it
        try:
            call = json.loads(raw)
        except ValueError:
            return _answer(None, error=RpcError(PARSE_ERROR, "Parse error").body)
        if not isinstance(call, dict) or not isinstance(call.get("method"), str):
            return _answer(None, error=RpcError(INVALID_REQUEST, "Invalid request").body)
        name, call_id = call["method"], call.get("id")
        strike = self._faults.fall_on(name)
        if strike.delay_before_ms:
            await asyncio.sleep(strike.delay_before_ms / 1000)
        if "error_before" in strike.kinds:
            return PlainTextResponse("gateway timeout", status_code=504)
        if "rate_limit" in strike.kinds:
            return PlainTextResponse("too many requests", status_code=429)
        if "node_behind" in strike.kinds:
            behind = RpcError(NODE_UNHEALTHY, "Node is behind by 42 slots", {"numSlotsBehind": 42})
            return _answer(call_id, error=behind.body)
        try:
            result = self._call(name, call.get("params", []), "stale_reads" in strike.kinds)
            response = _answer(call_id, result=result)
        except RpcError as error:
            response = _answer(call_id, error=error.body)
        if strike.delay_after_ms:
            await asyncio.sleep(strike.delay_after_ms / 1000)
        if "error_after" in strike.kinds:
            return PlainTextResponse("gateway timeout", status_code=504)
        return HungUp() if "drop_after_commit" in strike.kinds else response

    def _call(self, name: str, values: Json, stale: bool) -> Json:
        method = self._methods.get(name)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        result = method(Params(values))
        return _as_if_nothing_had_landed(name, result) if stale else result

    def _slot_for(self, options: Mapping[str, Any]) -> int:
        return self._ledger.slot_at(commitment_of(options))

    def _with_context(self, options: Mapping[str, Any], value: Json) -> dict[str, Any]:
        return {"context": {"apiVersion": _CORE_VERSION, "slot": self._slot_for(options)}} | {
            "value": value
        }

    # --- accounts ---

    def _get_balance(self, params: Params) -> Json:
        options = params.options(1)
        account = self._ledger.account(params.address(0), commitment_of(options))
        return self._with_context(options, 0 if account is None else account.lamports)

    def _account_json(self, address: Pubkey, options: Mapping[str, Any]) -> Json:
        commitment, encoding = commitment_of(options), options.get("encoding", "base64")
        if encoding not in ("base64", "base58", "jsonParsed"):
            raise RpcError(INVALID_PARAMS, "encoding: use base64, base58 or jsonParsed")
        data_slice = options.get("dataSlice")
        return account_json(
            self._ledger.account(address, commitment),
            encoding,
            None if data_slice is None else data_slice_of(data_slice),
            lambda other: self._ledger.account(other, commitment),
        )

    def _get_account_info(self, params: Params) -> Json:
        options = params.options(1)
        return self._with_context(options, self._account_json(params.address(0), options))

    def _get_multiple_accounts(self, params: Params) -> Json:
        addresses, options = params.at(0, list), params.options(1)
        if len(addresses) > ACCOUNTS_PER_CALL_MAX:
            raise RpcError(INVALID_PARAMS, f"Too many inputs provided; max {ACCOUNTS_PER_CALL_MAX}")
        accounts = [self._account_json(address_of(each), options) for each in addresses]
        return self._with_context(options, accounts)

    # --- tokens ---

    def _mint(self, address: Pubkey, commitment: str) -> Mint:
        mint = mint_of(self._ledger.account(address, commitment))
        if mint is None:
            raise RpcError(INVALID_PARAMS, "Invalid param: not a Token mint")
        return mint

    def _get_token_supply(self, params: Params) -> Json:
        options = params.options(1)
        mint = self._mint(params.address(0), commitment_of(options))
        return self._with_context(options, token_amount(mint.supply, mint.decimals))

    def _get_token_account_balance(self, params: Params) -> Json:
        options = params.options(1)
        commitment = commitment_of(options)
        held = token_account_of(self._ledger.account(params.address(0), commitment))
        if held is None:
            raise RpcError(INVALID_PARAMS, "Invalid param: not a Token account")
        decimals = self._mint(held.mint, commitment).decimals
        return self._with_context(options, token_amount(held.amount, decimals))

    def _get_token_accounts_by_owner(self, params: Params) -> Json:
        owner, chosen, options = params.address(0), params.at(1, dict), params.options(2)
        mint = address_of(chosen["mint"]) if "mint" in chosen else None
        program = address_of(chosen["programId"]) if "programId" in chosen else None
        if (mint is None) == (program is None) or program not in (None, *TOKEN_PROGRAM_IDS):
            raise RpcError(INVALID_PARAMS, "Invalid param: give either mint or a token programId")
        found = []
        for address, account in self._ledger.token_accounts():
            held = token_account_of(account)
            if (
                held is not None
                and held.owner == owner
                and mint in (None, held.mint)
                and program in (None, account.owner)
                and (view := self._account_json(address, options)) is not None
            ):
                found.append({"pubkey": str(address), "account": view})
        return self._with_context(options, found)

    # --- blockhashes and fees ---

    def _get_latest_blockhash(self, params: Params) -> Json:
        options = params.options(0)
        slot = self._slot_for(options)
        return self._with_context(options, self._blockhash_json(slot))

    def _blockhash_json(self, slot: int) -> dict[str, Any]:
        return {
            "blockhash": self._ledger.blockhash_of(slot),
            "lastValidBlockHeight": slot + BLOCKHASH_AGE_SLOTS_MAX,
        }

    def _is_blockhash_valid(self, params: Params) -> Json:
        live = self._ledger.blockhash_is_live(params.at(0, str))
        return self._with_context(params.options(1), live)

    def _get_fee_for_message(self, params: Params) -> Json:
        raw = decode(params.at(0, str), "base64")
        try:
            message = from_bytes_versioned(raw)
        except ValueError as error:
            raise RpcError(INVALID_PARAMS, "failed to deserialize the message") from error
        signatures = message.header.num_required_signatures
        fee = None
        if self._ledger.blockhash_is_live(str(message.recent_blockhash)):
            unsigned = VersionedTransaction.populate(message, [Signature.default()] * signatures)
            # Only a run knows the priority fee; a payer without funds still gets the base fee.
            fee = self._ledger.simulate(unsigned, verify=False).fee
            fee = fee or signatures * SIGNATURE_FEE_LAMPORTS
        return self._with_context(params.options(1), fee)

    # --- history ---

    def _confirmation(self, landed: Landed) -> str:
        steps = ("finalized", "confirmed")
        reached = (each for each in steps if landed.slot <= self._ledger.slot_at(each))
        return next(reached, "processed")

    def _get_signature_statuses(self, params: Params) -> Json:
        signatures = params.at(0, list)
        if len(signatures) > STATUSES_PER_CALL_MAX:
            raise RpcError(INVALID_PARAMS, f"Too many inputs provided; max {STATUSES_PER_CALL_MAX}")
        return self._with_context(
            {"commitment": "processed"}, [self._status_json(each) for each in signatures]
        )

    def _status_json(self, signature: Json) -> dict[str, Any] | None:
        landed = self._ledger.landed(signature_of(signature))
        if landed is None:
            return None
        confirmation = self._confirmation(landed)
        depth = self._ledger.slot - landed.slot
        return {
            "slot": landed.slot,
            "confirmations": None if confirmation == "finalized" else depth,
            "status": {"Ok": None} if landed.err is None else {"Err": landed.err},
            "err": landed.err,
            "confirmationStatus": confirmation,
        }

    def _get_signatures_for_address(self, params: Params) -> Json:
        address, options = params.address(0), params.options(1)
        at_least_confirmed(options)
        limit = options.get("limit") or HISTORY_PER_CALL_MAX
        if not isinstance(limit, int) or not 1 <= limit <= HISTORY_PER_CALL_MAX:
            raise RpcError(INVALID_PARAMS, f"Invalid limit; max {HISTORY_PER_CALL_MAX}")
        before, after = self._position(options.get("before")), self._position(options.get("until"))
        found = self._ledger.landed_naming(
            address,
            before=2**62 if before is None else before,
            after=0 if after is None else after,
            slot_max=self._slot_for(options),
            limit=limit,
        )
        return [
            {
                "signature": landed.signature,
                "slot": landed.slot,
                "err": landed.err,
                "memo": None
                if landed.memo is None
                else f"[{len(landed.memo.encode())}] {landed.memo}",
                "blockTime": landed.block_time,
                "confirmationStatus": self._confirmation(landed),
            }
            for landed in found
        ]

    def _position(self, signature: Json) -> int | None:
        if signature is None:
            return None
        landed = self._ledger.landed(signature_of(signature))
        return None if landed is None else landed.position

    def _get_transaction(self, params: Params) -> Json:
        options = params.options(1)
        at_least_confirmed(options)
        landed = self._ledger.landed(signature_of(params.at(0, str)))
        if landed is None or landed.slot > self._slot_for(options):
            return None
        spoken = version_of(landed.wire)
        highest = options.get("maxSupportedTransactionVersion")
        if spoken != "legacy" and (highest is None or highest < int(spoken)):
            text = (
                f"Transaction version ({spoken}) is not supported by the requesting client. Please "
                "try the request again with the following configuration parameter: "
                f'"maxSupportedTransactionVersion": {spoken}'
            )
            raise RpcError(UNSUPPORTED_TRANSACTION_VERSION, text)
        body = {
            "slot": landed.slot,
            "blockTime": landed.block_time,
            "transaction": transaction_json(
                landed.wire, options.get("encoding", "json"), landed.meta
            ),
            "meta": landed.meta,
        }
        return body if highest is None else body | {"version": spoken}

    # --- transactions ---

    def _request_airdrop(self, params: Params) -> Json:
        lamports = params.at(1, int)
        if not 1 <= lamports <= AIRDROP_LAMPORTS_MAX:
            text = f"Invalid param: lamports must be from 1 to {AIRDROP_LAMPORTS_MAX}"
            raise RpcError(INVALID_PARAMS, text)
        try:
            return self._ledger.airdrop(params.address(0), lamports)
        except ValueError as error:
            raise RpcError(INVALID_PARAMS, str(error)) from error

    def _send_transaction(self, params: Params) -> Json:
        options = params.options(1)
        transaction = transaction_of(params.at(0, str), options)
        if not options.get("skipPreflight", False):
            if not all(transaction.verify_with_results()):
                text = "Transaction signature verification failure"
                raise RpcError(SIGNATURE_VERIFICATION_FAILURE, text)
            verdict = self._ledger.simulate(transaction)
            if verdict.err is not None:
                text = f"Transaction simulation failed: {error_text(verdict.err)}"
                raise RpcError(PREFLIGHT_FAILURE, text, _simulation_json(verdict))
        # Past preflight a validator answers the signature, whatever becomes of the transaction.
        self._ledger.execute(transaction)
        return str(transaction.signatures[0])

    def _simulate_transaction(self, params: Params) -> Json:
        options = params.options(1)
        transaction = transaction_of(params.at(0, str), options)
        replace = bool(options.get("replaceRecentBlockhash", False))
        verify = bool(options.get("sigVerify", False))
        if replace and verify:
            text = "sigVerify may not be used with replaceRecentBlockhash"
            raise RpcError(INVALID_PARAMS, text)
        verdict = self._ledger.simulate(transaction, verify=verify, any_blockhash=replace)
        value = _simulation_json(verdict)
        if replace:
            value["replacementBlockhash"] = self._blockhash_json(self._ledger.slot)
        asked = options.get("accounts")
        if isinstance(asked, dict):
            post = verdict.post_accounts

            def read(address: Pubkey) -> Json:
                return post.get(address) or self._ledger.account(address)

            value["accounts"] = [
                account_json(read(address_of(each)), asked.get("encoding", "base64"), None, read)
                for each in asked.get("addresses", [])
            ]
        return self._with_context({"commitment": "processed"}, value)


class HungUp(Response):
    """A lost answer: the connection is dropped before a single byte."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Drop the connection instead of answering."""
        await hang_up(scope, receive)


_CORE_VERSION = f"0.0.0-litesvm.solders.{version('solders')}"


def _answer(call_id: Json, *, result: Json = None, error: Json = None) -> Response:
    body = {"result": result} if error is None else {"error": error}
    return JSONResponse({"jsonrpc": "2.0", "id": call_id} | body)


def _as_if_nothing_had_landed(name: str, result: Json) -> Json:
    """Return the answer of a node that lags behind."""
    if name == "getSignaturesForAddress":
        return []
    if not isinstance(result, dict) or "context" not in result:
        return None
    value = result["value"]
    return result | {"value": [None] * len(value) if isinstance(value, list) else None}


def _simulation_json(verdict: Verdict) -> dict[str, Any]:
    returned = verdict.return_data
    return {
        "err": verdict.err,
        "logs": verdict.logs,
        "accounts": None,
        "unitsConsumed": verdict.units_consumed,
        "returnData": None
        if returned is None
        else {
            "programId": returned["programId"],
            "data": [base64.b64encode(returned["data"]).decode(), "base64"],
        },
        "innerInstructions": None,
        "replacementBlockhash": None,
    }
