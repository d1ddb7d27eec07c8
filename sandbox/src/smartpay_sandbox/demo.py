"""`make demo`: starts the mesh and tells its story with real calls. Every statement is checked."""

from __future__ import annotations

import argparse
import http.client
import json
import re
import secrets
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from smartpay_sandbox.cognito import TokenError
from smartpay_sandbox.edge_client import Answer, EdgeClient
from smartpay_sandbox.launcher import Mesh, MeshError
from smartpay_sandbox.launcher_commands import Progress
from smartpay_sandbox.run_folder import REPOSITORY
from smartpay_sandbox.tenants import AMAZON_PAY, DEMO, SOLANA, TENANTS

CARD, DECLINING_CARD = "pm_card_visa", "pm_card_visa_chargeDeclined"
BURST_CARDS = ("pm_card_visa", "pm_card_mastercard", "pm_card_amex", "pm_card_discover")
BURST_MAX = 16  # a card tester is caught long before
CASCADE_TRIES = 6  # one decision in a hundred is random, and the router learns meanwhile
CATCH_UP_SECONDS = 30.0  # chat and chain follow events; usually a second
DIGITS = {"JPY": 0, "USDC": 6}  # of the currencies our merchants charge in; others have two
INDENT = "   "
TOKEN_DIGITS = 6

T = TypeVar("T")


class StoryError(Exception):
    """A statement of the story did not hold."""


def require(holds: bool, statement: str, answer: Answer | None = None) -> None:
    """Stops the story with the statement that did not hold."""
    if not holds:
        seen = "" if answer is None else f"\nanswer: {answer.status} {json.dumps(answer.body)}"
        raise StoryError(statement + seen)


def in_words(minor_units: int, currency: str) -> str:
    """Writes an amount as people read it: 123456 USD is 1,234.56 USD."""
    digits = DIGITS.get(currency, 2)
    whole, part = divmod(minor_units, 10**digits)
    return f"{whole:,}" + (f".{part:0{digits}d}" if digits else "") + f" {currency}"


def in_tokens(base_units: int) -> str:
    """Writes a number of tokens without a float: 1500000 is 1.5."""
    whole, part = divmod(base_units, 10**TOKEN_DIGITS)
    return f"{whole:,}.{part:0{TOKEN_DIGITS}d}".rstrip("0").rstrip(".")


def figures_in(text: str) -> set[str]:
    """Finds all figures of an answer but the zeros, which no ledger entry stands behind."""
    found = re.findall(r"\d[\d,]*(?:\.\d+)?(?: [A-Z]{3,4}\b)?", text)
    return {figure for figure in found if re.search("[1-9]", figure)}


class Story:
    """The steps in their order; each checks what it says.

    Args:
        mesh: a running mesh.
        edge: a client with all scopes of the demo merchant.
        console: where the story is told.
    """

    def __init__(self, mesh: Mesh, edge: EdgeClient, console: Console) -> None:
        self._mesh = mesh
        self._edge = edge
        self._console = console
        self._chapter = 0
        # New in every run, so that the story can be told again on the same state.
        self._run = secrets.token_hex(4)
        self._names = {DEMO.account_id(name): name for name in DEMO.accounts}

    def tell(self) -> None:
        """Tells the whole story; raises StoryError at the first statement that does not hold."""
        order = self._order("approved", 1999)
        approved = self._approved(order)
        self._repeated(order, approved)
        blocked = self._blocked()
        self._cascade()
        self._amazon_pay()
        self._solana_pay()
        self._refund(approved)
        self._reward(approved)
        self._chat(blocked)

    # -- the steps --

    def _approved(self, order: dict[str, Any]) -> dict[str, Any]:
        self._title("An approved payment")
        answer = self._pay(order)
        payment = answer.body
        require(answer.status == 201, "POST /pay answers 201", answer)
        require(payment["status"] == "STATUS_SUCCEEDED", "the payment succeeds", answer)
        require(payment["capturedAmount"] == order["amount"], "all of it is captured", answer)
        account = self._names[payment["attempts"][-1]["processorAccountId"]]
        self._say(f"POST /pay 19.99 USD: succeeded in {answer.milliseconds} ms at {account!r}.")
        self._say(f"{payment['paymentId']}")
        self._say(f"fraud score {payment['fraud']['score']:.4f}: allowed")
        first = payment["route"]["ranking"][0]
        self._say(f"routed to {account!r}: {' '.join(first['reasons'][1:])}")
        shown = self._edge.get(f"/payments/{payment['paymentId']}")
        legs = shown.body["ledger"]
        balance = sum(int(leg["amount"]["minorUnits"]) for leg in legs)
        require(bool(legs) and balance == 0, "the ledger's legs sum to zero", shown)
        self._say(f"its ledger holds {len(legs)} legs that sum to zero")
        return dict(payment)

    def _repeated(self, order: dict[str, Any], first: dict[str, Any]) -> None:
        self._title("The same key again")
        charges = self._stripe_intents()
        answer = self._pay(order)
        require(answer.body["paymentId"] == first["paymentId"], "it is the same payment", answer)
        replayed = answer.headers.get("idempotent-replayed")
        require(replayed == "true", "the answer is marked as a replay", answer)
        require(self._stripe_intents() == charges, "Stripe saw no second charge")
        self._say(f"the first answer again in {answer.milliseconds} ms (idempotent-replayed: true)")
        self._say("Stripe's own books show no second charge")
        other = {**order, "amount": {"minorUnits": "2999", "currencyCode": "USD"}}
        refused = self._pay(other)
        require(refused.status == 422, "the same key with another amount is refused", refused)
        self._say(f"with another amount: {refused.status} {refused.body['reason']}")

    def _blocked(self) -> dict[str, Any]:
        self._title("A card tester, blocked by fraud")
        device, address = f"device-{self._run}", f"198.51.100.{secrets.randbelow(254) + 1}"
        for tried in range(BURST_MAX):
            is_large = tried >= len(BURST_CARDS)
            order = self._order(f"burst-{tried}", 89900 if is_large else 100)
            order["deviceId"], order["ipAddress"] = device, address
            order["customerId"] = f"stranger-{self._run}-{tried}"
            order["instrument"] = self._instrument(BURST_CARDS[tried % len(BURST_CARDS)])
            answer = self._pay(order)
            require(answer.status in (201, 202), "POST /pay answers", answer)
            if answer.body["status"] == "STATUS_BLOCKED":
                break
        payment = answer.body
        require(payment["status"] == "STATUS_BLOCKED", "the tester is blocked", answer)
        require(not payment["attempts"], "nothing was charged", answer)
        require(bool(payment["fraud"]["reasons"]), "the block has reasons", answer)
        amount = in_words(int(payment["amount"]["minorUnits"]), "USD")
        self._say(f"one device, one address, card after card: number {tried + 1} ({amount}) is")
        self._say(f"blocked with score {payment['fraud']['score']:.4f}; no processor was asked")
        for reason in payment["fraud"]["reasons"]:
            self._say(f"- {reason['message']} ({reason['code']})")
        return dict(payment)

    def _cascade(self) -> None:
        self._title("A soft decline cascades to the second account")
        declining = "primary"
        for tried in range(CASCADE_TRIES):
            order = self._order(f"cascade-{tried}", 4200)
            order["instrument"] = self._instrument(CARD, {declining: DECLINING_CARD})
            answer = self._pay(order)
            attempts = answer.body.get("attempts", [])
            if len(attempts) > 1:
                break
            # The router ranked the other account first; let that one decline.
            declining = self._names[answer.body["route"]["ranking"][0]["processorAccountId"]]
        ends = [attempt["status"] for attempt in attempts]
        require(ends == ["STATUS_DECLINED", "STATUS_SUCCEEDED"], "decline, then success", answer)
        require(attempts[0]["softDecline"], "the decline is a soft one", answer)
        names = [self._names[attempt["processorAccountId"]] for attempt in attempts]
        require(len(set(names)) == 2, "the second try goes to the other account", answer)
        require(answer.body["status"] == "STATUS_SUCCEEDED", "the payment succeeds", answer)
        code = attempts[0]["declineCode"]
        self._say(f"{names[0]!r} declines ({code}), {names[1]!r} charges 42.00 USD:")
        self._say(f"one payment, two attempts, succeeded in {answer.milliseconds} ms")

    def _amazon_pay(self) -> None:
        self._title("A payer who prefers Amazon Pay")
        order = self._order("amazon", 2500)
        order["instrument"] = self._wallet(AMAZON_PAY, "checkout")
        asked = self._pay(order)
        require(asked.status == 202, "the payer must act first", asked)
        url = asked.body["nextAction"]["amazonCheckout"]["url"]
        self._post_outside(f"{url}/agree", None)
        self._say("POST /pay 25.00 USD: the payer is sent to Amazon's checkout, and agrees there")
        paid = self._confirmed(asked.body)
        self._say(f"Amazon charged it: {paid['attempts'][-1]['processorPaymentId']}")

    def _solana_pay(self) -> None:
        self._title("A payer with a Solana wallet, who sends too much")
        order = self._order("solana", 12_000_000)
        order["amount"]["currencyCode"] = "USDC"
        order["instrument"] = self._wallet(SOLANA, "solana_pay")
        asked = self._pay(order)
        require(asked.status == 202, "the payer must act first", asked)
        url = asked.body["nextAction"]["solanaPay"]["url"]
        self._say(f"POST /pay 12 USDC: show this as a QR code: {url[:46]}...")
        sent = {"url": url, "amount": "15"}
        self._post_outside(f"{self._mesh.endpoints['sandbox']}/solana/pay", sent)
        paid = self._confirmed(asked.body)
        require(paid["capturedAmount"]["minorUnits"] == "12000000", "12 USDC are captured")
        require(paid["overpaidAmount"]["minorUnits"] == "3000000", "3 USDC are too much")
        path = f"/payments/{paid['paymentId']}"
        back = self._wait(
            lambda: self._edge.get(path),
            lambda answer: answer.body["refunds"][0]["status"] == "STATUS_SUCCEEDED",
            "what was too much goes back by itself",
        ).body["refunds"][0]
        require(back["amount"]["minorUnits"] == "3000000", "3 USDC are sent back")
        self._say("the wallet sends 15: 12 are captured, 3 go back to it by themselves")

    def _confirmed(self, payment: dict[str, Any]) -> dict[str, Any]:
        path = f"/payments/{payment['paymentId']}:confirm"
        answer = self._wait(
            lambda: self._edge.post(path, {}),
            lambda answer: answer.body["status"] == "STATUS_SUCCEEDED",
            "what the payer did is noticed",
        )
        return dict(answer.body)

    def _refund(self, payment: dict[str, Any]) -> None:
        self._title("A refund")
        path = f"/payments/{payment['paymentId']}"
        body = {"amount": {"minorUnits": "500", "currencyCode": "USD"}}
        answer = self._edge.post(f"{path}:refund", body, key=f"refund-{self._run}")
        require(answer.body["status"] == "STATUS_SUCCEEDED", "the refund succeeds", answer)
        shown = self._edge.get(path)
        require(shown.body["refundedAmount"]["minorUnits"] == "500", "the payment shows it", shown)
        self._say(f"5.00 of 19.99 USD given back in {answer.milliseconds} ms; the payment shows it")

    def _reward(self, payment: dict[str, Any]) -> None:
        self._title("Reward tokens, read back from the chain")
        path = f"/rewards/{payment['paymentId']}"
        final = self._wait(
            lambda: self._edge.get(path),
            lambda answer: answer.status == 200 and answer.body["status"] == "STATUS_FINAL",
            "the reward becomes final on the chain",
        )
        reward = final.body
        options = {"encoding": "base64", "commitment": "finalized"}
        receipt = self._chain("getAccountInfo", reward["receiptAddress"], options)["value"]
        require(receipt is not None, "the receipt account exists", final)
        readable = {"encoding": "json", "maxSupportedTransactionVersion": 0}
        minted = self._chain("getTransaction", reward["signature"], readable)
        require(minted is not None and minted["meta"]["err"] is None, "the mint landed", final)
        tokens = in_tokens(int(reward["tokenBaseUnits"]))
        self._say(f"tokens minted for 19.99 USD: {tokens} (2 %, at least 1), exactly once:")
        self._say(f"signature {reward['signature'][:20]}..., receipt {reward['receiptAddress']}")
        supply, owed = self._wait(
            lambda: (self._supply(), self._rewards_of_all()),
            lambda both: both[0] == both[1],
            "the supply on the chain is the sum of all rewards",
        )
        require(supply == owed, "supply and rewards agree")
        self._say(f"the chain's supply is {in_tokens(supply)}: the sum of all rewards")

    def _chat(self, blocked: dict[str, Any]) -> None:
        self._title("A chat about it")
        question = "How much did I take, how much was refunded, and how many were blocked?"
        figures = self._figures()

        def ask() -> str:
            events = self._edge.stream("/chat", {"message": question})
            require("done" in events[-1], "the stream ends with done")
            return "".join(event["token"]["text"] for event in events if "token" in event)

        told = self._wait(
            ask,
            lambda text: figures_in(text) == set(figures),
            f"the answer's figures are the ledger's: {', '.join(figures)}",
        )
        self._say(f"> {question}")
        for line in told.splitlines():
            self._say(f"  {line}" if line else "")
        self._say(f"the ledger, summed payment by payment, says the same: {', '.join(figures)}")
        why = f"Why was {blocked['paymentId']} blocked?"
        answer = self._edge.post("/chat:ask", {"message": why})
        reason = blocked["fraud"]["reasons"][0]["message"]
        require(reason in answer.body["answer"], "the chat names fraud's first reason", answer)
        self._say(f"> {why}")
        for line in answer.body["answer"].splitlines():
            self._say(f"  {line}" if line else "")

    # -- what the steps are made of --

    def _order(self, name: str, minor_units: int) -> dict[str, Any]:
        return {
            "amount": {"minorUnits": str(minor_units), "currencyCode": "USD"},
            "instrument": self._instrument(CARD),
            "captureMethod": "CAPTURE_METHOD_AUTOMATIC",
            "merchantOrderId": f"{name}-{self._run}",
            "customerId": f"customer-{name}-{self._run}",
            "deviceId": f"device-{name}-{self._run}",
        }

    def _instrument(self, card: str, exceptions: dict[str, str] | None = None) -> dict[str, Any]:
        cards = {name: card for name in DEMO.accounts} | (exceptions or {})
        tokens = [
            {"processorAccountId": DEMO.account_id(name), "token": token}
            for name, token in cards.items()
        ]
        return {"tokens": tokens, "fingerprint": secrets.token_hex(8)}

    def _wallet(self, account: str, token: str) -> dict[str, Any]:
        return {"tokens": [{"processorAccountId": DEMO.account_id(account), "token": token}]}

    def _post_outside(self, url: str, body: dict[str, Any] | None) -> None:
        """Does what a payer does in a browser or a wallet."""
        data = b"" if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            require(response.status < 300, f"the outside world takes {url}")

    def _pay(self, order: dict[str, Any]) -> Answer:
        return self._edge.post("/pay", order, key=order["merchantOrderId"])

    def _figures(self) -> list[str]:
        captured: Counter[str] = Counter()
        refunded: Counter[str] = Counter()
        blocks = 0
        for payment in self._edge.pages("/payments", "payments"):
            currency = payment["amount"]["currencyCode"]
            captured[currency] += int(payment["capturedAmount"]["minorUnits"])
            refunded[currency] += int(payment["refundedAmount"]["minorUnits"])
            blocks += payment["status"] == "STATUS_BLOCKED"
        amounts = [
            in_words(minor_units, currency)
            for sums in (captured, refunded)
            for currency, minor_units in sums.items()
            if minor_units
        ]
        return [*amounts, f"{blocks:,}"]

    def _stripe_intents(self) -> int:
        with urllib.request.urlopen(f"{self._mesh.endpoints['sandbox']}/stripe/dump") as response:
            accounts = json.load(response)["accounts"]
        return sum(len(account["payment_intents"]) for account in accounts.values())

    def _chain(self, method: str, *params: object) -> Any:  # noqa: ANN401 - JSON
        request = urllib.request.Request(
            self._mesh.endpoints["solana"],
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            answer = json.load(response)
        require("result" in answer, f"the chain answers {method}: {answer.get('error')}")
        return answer["result"]

    def _supply(self) -> int:
        mint, final = self._mesh.endpoints["mint"], {"commitment": "finalized"}
        return int(self._chain("getTokenSupply", mint, final)["value"]["amount"])

    def _rewards_of_all(self) -> int:
        endpoints, total = self._mesh.endpoints, 0
        for tenant in TENANTS:
            token = self._mesh.token(next(iter(tenant.clients)))
            with EdgeClient(endpoints["rest"], endpoints["ca"], token) as edge:
                for reward in edge.pages("/rewards", "rewards"):
                    if reward["status"] in ("STATUS_SENT", "STATUS_FINAL", "STATUS_NEW"):
                        total += int(reward["tokenBaseUnits"])
        return total

    def _wait(self, look: Callable[[], T], is_there: Callable[[T], bool], what: str) -> T:
        deadline = time.monotonic() + CATCH_UP_SECONDS
        seen = look()
        while not is_there(seen):
            require(time.monotonic() < deadline, f"{what}; last seen: {seen}")
            time.sleep(0.1)
            seen = look()
        return seen

    def _title(self, text: str) -> None:
        self._chapter += 1
        self._console.print(f"\n[bold]{self._chapter}. {text}[/bold]")

    def _say(self, text: str) -> None:
        self._console.print(INDENT + text, markup=False)


def what_next(mesh: Mesh, console: Console) -> None:
    """Says how to go on by hand."""
    endpoints = mesh.endpoints
    body = {
        "amount": {"minorUnits": "1999", "currencyCode": "USD"},
        "instrument": {
            "tokens": [{"processorAccountId": DEMO.account_id("primary"), "token": CARD}]
        },
        "captureMethod": "CAPTURE_METHOD_AUTOMATIC",
    }
    curl = f'curl --cacert {endpoints["ca"]} -H "Authorization: Bearer $(make token)"'
    lines = (
        "The mesh goes on running. Try, for instance:",
        f"  {curl} {endpoints['rest']}/payments",
        f"  {curl} {endpoints['rest']}/pay -H 'Idempotency-Key: mine-1' -d '{json.dumps(body)}'",
        f'  {curl} -N {endpoints["rest"]}/chat -d \'{{"message": "what is my approval rate?"}}\'',
        "  make status, make logs LOG=payments, make token CLIENT=readonly",
        "Stop it with `make down` (state stays) or `make clean` (all is forgotten).",
    )
    console.print()
    for line in lines:
        console.print(line, markup=False)


def main() -> int:
    """Starts the mesh if it does not run, tells the story and answers the exit code."""
    # One line is one line, however narrow the terminal.
    console = Console(highlight=False, soft_wrap=True)
    parser = argparse.ArgumentParser(prog="python -m smartpay_sandbox.demo")
    parser.add_argument("--run", type=Path, default=REPOSITORY / ".run", help="the run folder")
    mesh = Mesh(parser.parse_args().run, with_parent=False)
    started = time.monotonic()
    try:
        if not mesh.is_running:
            console.print("Starting the mesh")
            mesh.start(Progress())
        endpoints = mesh.endpoints
        with EdgeClient(endpoints["rest"], endpoints["ca"], mesh.token()) as edge:
            console.print(f"The edge listens on {endpoints['rest']}; Cognito gave us a token.")
            Story(mesh, edge, console).tell()
    except (StoryError, MeshError, TokenError) as error:
        console.print(f"\ndemo: does not hold: {error}", markup=False, style="red")
        return 1
    except (OSError, KeyError, http.client.HTTPException) as error:
        console.print(f"\ndemo: {type(error).__name__}: {error}; see make status", markup=False)
        return 1
    what_next(mesh, console)
    console.print(f"\n[bold]All of it holds.[/bold] {time.monotonic() - started:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
