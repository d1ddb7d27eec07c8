"""The chain adapter against a node that answers oddly, and an issuer that runs dry."""

import base64
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from solders.hash import Hash
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from smartpay_rewards.adapters.solana_chain import BlockhashValue, SolanaChain, SolanaRpc
from smartpay_rewards.domain.issuance import (
    ChainRefusedError,
    ChainUnsureError,
    MintOrder,
    Prepared,
    State,
)
from smartpay_rewards.testing import (
    ISSUER,
    RECEIPT_KEY,
    WALLET,
    a_payment,
    payment_id,
)
from smartpay_sandbox.listener import listening

ODD_ANSWERS = [
    "",
    "<html>busy</html>",
    "{}",
    '{"jsonrpc": "2.0", "id": "1", "result": null}',
    '{"jsonrpc": "2.0", "id": "1", "result": 7}',
    '{"jsonrpc": "2.0", "id": "1", "result": {"value": 7}}',
    '{"jsonrpc": "2.0", "id": "1", "result": {"value": []}}',
    '{"jsonrpc": "2.0", "id": "1", "result": [{"signature": 7}]}',
    '{"jsonrpc": "2.0", "id": "1", "error": {"code": 429, "message": "slow down"}}',
    '{"jsonrpc": "2.0", "id": "1", "error": {"code": -32002, "message": "no data"}}',
    '{"jsonrpc": "2.0", "id": "1", "error": {"code": -32005, "message": "x", "data": 5}}',
]
CALLS: dict[str, Callable[[SolanaChain], Awaitable[Any]]] = {
    "identity": lambda chain: chain.identity(),
    "marked": lambda chain: chain.marked([payment_id(1)]),
    "landed": lambda chain: chain.landed(["signature"]),
    "minted": lambda chain: chain.minted(payment_id(1)),
    "prepare": lambda chain: chain.prepare(MintOrder(payment_id(1), WALLET, 1)),
    "submit": lambda chain: chain.submit(Prepared("signature", b"wire")),
}


@pytest.mark.parametrize("call", CALLS)
async def test_no_odd_answer_is_taken_for_a_yes_or_a_no(call: str) -> None:
    answers = iter(ODD_ANSWERS)

    async def answer(request: Request) -> Response:
        return PlainTextResponse(next(answers))

    app = Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])])
    async with listening(app) as url:
        rpc = SolanaRpc(url, timeout_seconds=5, connections_max=1)
        mint = Pubkey.from_string(WALLET)
        chain = SolanaChain(rpc, ISSUER, mint, RECEIPT_KEY, blockhash_seconds=5)
        for _ in ODD_ANSWERS:
            with pytest.raises(ChainUnsureError):
                await CALLS[call](chain)
        await rpc.close()


async def test_a_node_that_is_not_there_leaves_us_unsure() -> None:
    rpc = SolanaRpc("http://127.0.0.1:1", timeout_seconds=1, connections_max=1)
    with pytest.raises(ChainUnsureError, match="getHealth: ConnectError"):
        await rpc.ask(str, "getHealth")
    await rpc.close()


async def send_everything_away(world: Any) -> None:
    """Leave the issuer too little for a receipt."""
    balance = world.simulator._ledger.account(ISSUER.pubkey()).lamports
    options = {"commitment": "confirmed"}
    answer = await world.rpc.ask(BlockhashValue, "getLatestBlockhash", options)
    away = transfer(
        TransferParams(
            from_pubkey=ISSUER.pubkey(),
            to_pubkey=Pubkey.from_string(WALLET),
            lamports=balance - 5_000 - 900_000,
        )
    )
    blockhash = Hash.from_string(answer["value"]["blockhash"])
    message = MessageV0.try_compile(ISSUER.pubkey(), [away], [], blockhash)
    wire = base64.b64encode(bytes(VersionedTransaction(message, [ISSUER]))).decode()
    await world.rpc.call(str, "sendTransaction", wire, {"encoding": "base64"})


async def test_an_issuer_without_sol_holds_rewards_up_but_parks_none(world: Any) -> None:
    store, chain = await world.store(), world.chain()
    await world.deliver(store, chain, [a_payment()])
    await send_everything_away(world)
    prepared = await chain.prepare(MintOrder(payment_id(1), WALLET, 1))
    with pytest.raises(ChainRefusedError, match="ISSUER_UNFUNDED") as refused:
        await chain.submit(prepared)
    assert not refused.value.by_rule
    worker = world.worker(store, chain)
    for _ in range(600):
        await worker.round()
        world.clock.advance(seconds=1)
    [waiting] = await store.page(a_payment().merchant_id, livemode=False, after=None, limit=9)
    assert waiting.state is State.SENT
    assert waiting.attempts > 5
    await world.rpc.call(str, "requestAirdrop", str(ISSUER.pubkey()), 10**9)
    await world.finish(store, worker)
    assert world.simulator.dump()["memos"][payment_id(1)] == 1


async def test_a_receipt_address_tells_nothing_about_its_payment(world: Any) -> None:
    chain, other = world.chain(), world.chain(receipt_key=RECEIPT_KEY[::-1])
    addresses = [chain.receipt_address(payment_id(number)) for number in range(50)]
    assert len(set(addresses)) == 50
    assert chain.receipt_address(payment_id(1)) == addresses[1]
    assert other.receipt_address(payment_id(1)) != addresses[1]


async def test_a_transaction_for_a_new_wallet_fits_a_packet(world: Any) -> None:
    prepared = await world.chain().prepare(MintOrder(payment_id(1), WALLET, 10**9))
    assert len(prepared.wire) <= 1232
