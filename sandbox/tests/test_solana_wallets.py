"""The people on the chain: payers, look-alike coins, commitment in steps, and what a judge sees."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.jsonrpc import JsonRpcRequest, SolanaJsonRpcError
from solders.pubkey import Pubkey

from smartpay_sandbox.control import sandbox_app
from smartpay_sandbox.listener import listening
from smartpay_sandbox.settings import SettingError, read_settings
from smartpay_sandbox.solana import SolanaSimulator
from smartpay_sandbox.solana_testing import SolanaSandbox, solana_sandbox
from smartpay_sandbox.solana_views import Json
from smartpay_sandbox.solana_wallets import USDC_MINT, Funds
from smartpay_sandbox.testing import Clock

SHOP, REFERENCE, SECOND = (str(Pubkey(bytes([n]) * 32)) for n in (1, 2, 3))
URL = f"solana:{SHOP}?amount=1.5&spl-token={USDC_MINT}&reference={REFERENCE}"
SOL_URL = f"solana:{SHOP}?amount=0.25&reference={REFERENCE}"


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[SolanaSandbox]:
    async with solana_sandbox(tmp_path) as running:
        running.fund(SHOP, sol="1", usdc="2")
        yield running


async def ask(url: str, method: str, *params: Json) -> Json:
    async with AsyncClient(url, timeout=5, http2=False, max_transport_retries=0) as client:
        request = JsonRpcRequest(method=method, params=list(params))
        answer: Json = await client.send_rpc_request(request, object)
        return answer


async def usdc_of(box: SolanaSandbox, owner: str) -> str:
    chosen = {"commitment": "confirmed", "encoding": "jsonParsed"}
    held = await ask(box.url, "getTokenAccountsByOwner", owner, {"mint": USDC_MINT}, chosen)
    info = held["value"][0]["account"]["data"]["parsed"]["info"]
    amount: str = info["tokenAmount"]["amount"]
    return amount


async def test_a_wallet_follows_the_address_and_is_found_by_its_reference(
    box: SolanaSandbox,
) -> None:
    paid = box.pay(URL)
    assert await usdc_of(box, SHOP) == "3500000"
    assert await ask(box.url, "getSignaturesForAddress", REFERENCE) == []
    box.pass_slots()
    [row] = await ask(box.url, "getSignaturesForAddress", REFERENCE)
    assert (row["signature"], row["err"]) == (paid["signature"], None)
    [told] = box.simulator.dump()["transfers"][REFERENCE]
    assert (told["payer"], told["payee"], told["amount"]) == (paid["payer"], SHOP, "1500000")
    assert (told["mint"], told["signature"]) == (USDC_MINT, paid["signature"])


async def test_sol_is_paid_as_well(box: SolanaSandbox) -> None:
    box.pay(SOL_URL)
    options = {"commitment": "confirmed"}
    assert (await ask(box.url, "getBalance", SHOP, options))["value"] == 1_250_000_000
    [told] = box.simulator.dump()["transfers"][REFERENCE]
    assert (told["mint"], told["amount"]) == ("", "250000000")


async def test_two_equal_payments_in_one_slot_are_two(box: SolanaSandbox) -> None:
    assert box.pay(URL)["signature"] != box.pay(URL)["signature"]
    assert await usdc_of(box, SHOP) == "5000000"


@pytest.mark.parametrize(
    ("way", "moved"),
    [
        ({"amount": "0.000001"}, (USDC_MINT, SHOP, "1")),
        ({"mint": "SOL", "amount": "1"}, ("", SHOP, "1000000000")),
        ({"recipient": SECOND, "mint": "SOL", "amount": "1"}, ("", SECOND, "1000000000")),
        ({"legacy": True}, (USDC_MINT, SHOP, "1500000")),
    ],
)
async def test_people_stray_from_what_is_asked(
    box: SolanaSandbox, way: dict[str, Any], moved: tuple[str, str, str]
) -> None:
    box.pay(URL, **way)
    [told] = box.simulator.dump()["transfers"][REFERENCE]
    assert (told["mint"], told["payee"], told["amount"]) == moved


async def test_a_look_alike_is_another_mint_with_the_same_decimals(box: SolanaSandbox) -> None:
    fake = box.pay(URL, mint="USDC ")["mint"]
    assert fake != USDC_MINT
    mints = box.simulator.dump()["mints"]
    assert mints[fake]["decimals"] == mints[USDC_MINT]["decimals"] == 6


async def test_references_can_be_added_and_replaced(box: SolanaSandbox) -> None:
    box.pay(URL, extra_references=[SECOND])
    box.pay(URL, references=[])
    box.pay(URL, references=[SECOND, REFERENCE])
    transfers = box.simulator.dump()["transfers"]
    assert [t["references"] for t in transfers[REFERENCE]] == [[REFERENCE, SECOND]]
    assert [t["references"] for t in transfers[SECOND]] == [[SECOND, REFERENCE]]


async def test_a_failing_payment_lands_and_moves_nothing(box: SolanaSandbox) -> None:
    signature = box.pay(URL, fails=True)["signature"]
    box.pass_slots()
    [row] = await ask(box.url, "getSignaturesForAddress", REFERENCE)
    assert row["signature"] == signature
    assert row["err"] is not None
    assert await usdc_of(box, SHOP) == "2000000"
    assert box.simulator.dump()["transfers"] == {}


@pytest.mark.parametrize(
    ("url", "way", "told"),
    [
        (URL.replace("solana:", "https://"), {}, "url"),
        (URL.replace("1.5", "1e3"), {}, "amount"),
        (URL.replace("1.5", "0.0000001"), {}, "6 decimals"),
        (URL.replace("1.5", "9" * 20), {}, "more than there is"),
        (URL.replace("amount=1.5&", ""), {}, "amount"),
        (URL + "&amount=2", {}, "twice"),
        (URL.replace(USDC_MINT, SECOND), {}, "no such token"),
        (URL.replace(SHOP, "shop"), {}, "recipient"),
        (URL.replace(SHOP, SECOND), {}, "no USDC account"),
        (URL, {"extra_references": ["x"]}, "extra_references"),
        (URL, {"recipient": "x"}, "recipient"),
    ],
)
async def test_what_no_wallet_would_do_is_refused(
    box: SolanaSandbox, url: str, way: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        box.pay(url, **way)
    assert box.simulator.dump()["transfers"] == {}


async def test_a_chain_can_take_its_steps_slowly(tmp_path: Path) -> None:
    clock = Clock()
    node = SolanaSimulator(
        tmp_path, clock, confirmed_slots=2, final_slots=5, funds=[Funds(SHOP, usdc="1")]
    )
    await node.start()
    async with listening(node.app) as url:
        clock.advance(10)
        running = SolanaSandbox(url, node, clock)
        signature = running.pay(URL)["signature"]
        seen = []
        for _ in range(7):
            [status] = (await ask(url, "getSignatureStatuses", [signature]))["value"]
            found = {
                commitment: bool(
                    await ask(url, "getTransaction", signature, {
                        "commitment": commitment, "maxSupportedTransactionVersion": 0,
                    })
                )
                for commitment in ("confirmed", "finalized")
            }  # fmt: skip
            balances = [
                (await ask(url, "getTokenAccountBalance", _account(node, SHOP), {
                    "commitment": commitment
                }))["value"]["amount"] == "2500000"
                for commitment in ("processed", "confirmed", "finalized")
            ]  # fmt: skip
            seen.append((status["confirmationStatus"], *found.values(), *balances))
            running.pass_slots(1)
        with pytest.raises(SolanaJsonRpcError, match="below `confirmed`"):
            await ask(url, "getSignaturesForAddress", REFERENCE, {"commitment": "processed"})
    await node.stop()
    processed = ("processed", False, False, True, False, False)
    confirmed = ("confirmed", True, False, True, True, False)
    finalized = ("finalized", True, True, True, True, True)
    assert seen == [processed] * 2 + [confirmed] * 3 + [finalized] * 2


def _account(node: SolanaSimulator, owner: str) -> str:
    rows = node.dump()["token_accounts"]
    return str(next(r["address"] for r in rows if (r["owner"], r["mint"]) == (owner, USDC_MINT)))


async def test_coins_names_and_movements_survive_a_restart(tmp_path: Path) -> None:
    async with solana_sandbox(tmp_path) as box:
        box.fund(SHOP, usdc="2")
        first = box.pay(URL)
        before = box.simulator.dump()
    async with solana_sandbox(tmp_path) as box:
        assert box.simulator.dump() == before
        assert box.pay(URL)["payer"] == first["payer"]


async def test_filling_up_gives_only_what_is_missing(box: SolanaSandbox) -> None:
    before = box.simulator.dump()["transactions"]
    box.fund(SHOP, sol="1", usdc="1.5")
    assert box.simulator.dump()["transactions"] == before
    box.fund(SHOP, usdc="2.5")
    assert await usdc_of(box, SHOP) == "2500000"


@pytest.mark.parametrize(
    ("kind", "code"), [("node_behind", -32005), ("rate_limit", None), ("error_before", None)]
)
async def test_a_node_can_refuse_any_method(
    box: SolanaSandbox, kind: str, code: int | None
) -> None:
    box.fail_next(kind, "getSlot")
    async with httpx.AsyncClient() as client:
        call = {"jsonrpc": "2.0", "id": 1, "method": "getSlot", "params": []}
        answer = await client.post(box.url, json=call)
        again = await client.post(box.url, json=call)
    if code is None:
        assert answer.status_code in {429, 504}
    else:
        assert answer.json()["error"]["code"] == code
    assert again.json()["result"] >= 0


async def test_the_control_api_pays_and_funds(tmp_path: Path) -> None:
    app = sandbox_app({"solana": SolanaSimulator(tmp_path)})
    async with listening(app) as url, httpx.AsyncClient(base_url=f"{url}/control") as control:
        funded = await control.post("/solana/fund", json={"address": SHOP, "usdc": "1"})
        assert funded.status_code == 204
        paid = await control.post("/solana/pay", json={"url": URL, "payer": "ann", "amount": "2"})
        assert paid.status_code == 201
        transfers = (await control.get("/solana/dump")).json()["transfers"]
        assert transfers[REFERENCE][0]["payer"] == paid.json()["payer"]
        for path, body, told in (
            ("pay", {"payer": "ann"}, "url"),
            ("pay", {"url": URL, "tip": "1"}, "tip"),
            ("pay", {"url": URL, "amount": 1}, "amount"),
            ("pay", {"url": URL, "references": "x"}, "references"),
            ("pay", [], "url"),
            ("fund", {"address": "x"}, "address"),
            ("fund", {"address": SHOP, "sol": "-1"}, "amount"),
        ):
            refused = await control.post(f"/solana/{path}", json=body)
            assert refused.status_code == 400
            assert told in refused.json()["error"]


async def test_without_a_chain_nobody_pays(tmp_path: Path) -> None:
    async with listening(sandbox_app({})) as url, httpx.AsyncClient(base_url=url) as client:
        for path in ("pay", "fund"):
            assert (await client.post(f"/control/solana/{path}", json={})).status_code == 404


def test_the_chain_s_settings_are_read_and_refused_by_name(tmp_path: Path) -> None:
    funds = tmp_path / "funds.json"
    funds.write_text(json.dumps([{"address": SHOP, "sol": "1"}]))
    base = {"SANDBOX_STATE_DIR": "x"}
    read = read_settings(
        base
        | {
            "SANDBOX_SOLANA_FUNDS": str(funds),
            "SANDBOX_SOLANA_FINAL_SLOTS": "32",
            "SANDBOX_SOLANA_CONFIRMED_SLOTS": "1",
        }
    )
    assert read.solana_funds == (Funds(SHOP, "1"),)
    assert (read.solana_confirmed_slots, read.solana_final_slots) == (1, 32)
    funds.write_text('[{"sol": "1"}]')
    for name, value in (
        ("SANDBOX_SOLANA_FUNDS", str(funds)),
        ("SANDBOX_SOLANA_FUNDS", "/no"),
        ("SANDBOX_SOLANA_FINAL_SLOTS", "500"),
        ("SANDBOX_SOLANA_CONFIRMED_SLOTS", "few"),
    ):
        with pytest.raises(SettingError, match=name):
            read_settings(base | {name: value})
