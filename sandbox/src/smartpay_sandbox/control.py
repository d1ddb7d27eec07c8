"""The control API and the app that holds all simulators: health, dumps, faults, accounts, reset."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from smartpay_sandbox.amazon_pay_api import AmazonPaySimulator
from smartpay_sandbox.amazon_pay_checkout import DEFAULT_CARD
from smartpay_sandbox.amazon_pay_refusals import AmazonPayRefusalError
from smartpay_sandbox.amazon_pay_store import read_registration
from smartpay_sandbox.merchant_endpoint import MerchantEndpoints
from smartpay_sandbox.simulator import Simulator
from smartpay_sandbox.solana import SolanaSimulator
from smartpay_sandbox.solana_wallets import read_funds, read_pay_order
from smartpay_sandbox.stripe_api import StripeSimulator
from smartpay_sandbox.stripe_webhooks import read_event_faults


def sandbox_app(simulators: Mapping[str, Simulator]) -> ASGIApp:
    """Mount each simulator under its name and the control API under `/control`."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for simulator in simulators.values():
                await simulator.start()
                stack.push_async_callback(simulator.stop)
            yield

    mounted = Starlette(
        lifespan=lifespan,
        routes=[
            Mount("/control", routes=_control_routes(simulators)),
            *(Mount(f"/{name}", app=simulator.app) for name, simulator in simulators.items()),
        ],
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # A mount answers its bare name by a redirect, which JSON-RPC clients do not follow.
        if scope["type"] == "http" and scope["path"][1:] in simulators:
            scope = {**scope, "path": scope["path"] + "/"}
        await mounted(scope, receive, send)

    return app


def _control_routes(simulators: Mapping[str, Simulator]) -> list[Route]:
    def named(request: Request) -> Simulator | None:
        return simulators.get(request.path_params["name"])

    async def health(_: Request) -> Response:
        """Answer once every simulator has loaded its state, since lifespan comes first."""
        return JSONResponse({"status": "ok", "simulators": sorted(simulators)})

    async def dump(request: Request) -> Response:
        simulator = named(request)
        return _unknown(simulators) if simulator is None else JSONResponse(simulator.dump())

    async def set_faults(request: Request) -> Response:
        simulator = named(request)
        if simulator is None:
            return _unknown(simulators)
        body = await _json(request)
        if not isinstance(body, dict) or not isinstance(body.get("rules"), list):
            return _bad('send JSON like {"rules": [{"kind": "slow", "delay_ms": 500}]}')
        try:
            simulator.set_faults(body["rules"])
        except ValueError as refusal:
            return _bad(str(refusal))
        return JSONResponse({"rules": len(body["rules"])})

    async def clear_faults(request: Request) -> Response:
        simulator = named(request)
        if simulator is None:
            return _unknown(simulators)
        simulator.clear_faults()
        return Response(status_code=204)

    async def add_stripe_account(request: Request) -> Response:
        simulator = simulators.get("stripe")
        body = await _json(request)
        if not isinstance(simulator, StripeSimulator):
            return _unknown(simulators)
        if not isinstance(body, dict) or not all(
            isinstance(body.get(name), str) for name in ("id", "secret_key")
        ):
            return _bad('send JSON like {"id": "acct_1", "secret_key": "sk_test_1"}')
        try:
            simulator.add_account(body["id"], body["secret_key"])
        except ValueError as refusal:
            return _bad(str(refusal))
        return JSONResponse({"id": body["id"]}, status_code=201)

    async def add_amazon_pay_merchant(request: Request) -> Response:
        """Register a merchant of Amazon Pay, or change what it registered."""
        simulator = simulators.get("amazon_pay")
        if not isinstance(simulator, AmazonPaySimulator):
            return _unknown(simulators)
        try:
            registration = read_registration(await _json(request))
            simulator.register(registration)
        except ValueError as refusal:
            return _bad(str(refusal))
        return JSONResponse({"merchant_id": registration.merchant_id}, status_code=201)

    async def grant_amazon_pay_permission(request: Request) -> Response:
        """Let a buyer agree to later charges, as a finished set-up would leave it."""
        simulator = simulators.get("amazon_pay")
        if not isinstance(simulator, AmazonPaySimulator):
            return _unknown(simulators)
        body = await _json(request)
        if not isinstance(body, dict) or not isinstance(body.get("merchant_id"), str):
            return _bad('send JSON like {"merchant_id": "A1", "card": "1111"}')
        try:
            granted = simulator.grant(
                body["merchant_id"],
                str(body.get("card", DEFAULT_CARD)),
                str(body.get("type", "Recurring")),
            )
        except AmazonPayRefusalError as refusal:
            return JSONResponse(refusal.body, status_code=refusal.status)
        return JSONResponse({"chargePermissionId": granted["chargePermissionId"]}, status_code=201)

    async def pay_on_chain(request: Request) -> Response:
        """Pay a solana: address as a payer's wallet does."""
        simulator = simulators.get("solana")
        if not isinstance(simulator, SolanaSimulator):
            return _unknown(simulators)
        try:
            return JSONResponse(
                simulator.pay(read_pay_order(await _json(request))), status_code=201
            )
        except ValueError as refusal:
            return _bad(str(refusal))

    async def fund_wallet(request: Request) -> Response:
        """Fill a wallet up with coins."""
        simulator = simulators.get("solana")
        if not isinstance(simulator, SolanaSimulator):
            return _unknown(simulators)
        try:
            simulator.fund(read_funds(await _json(request)))
        except ValueError as refusal:
            return _bad(str(refusal))
        return Response(status_code=204)

    async def add_webhook_endpoint(request: Request) -> Response:
        """Send a Stripe account's events somewhere, signed by the secret that is answered."""
        simulator = simulators.get("stripe")
        body = await _json(request)
        if not isinstance(simulator, StripeSimulator):
            return _unknown(simulators)
        if not isinstance(body, dict) or not all(
            isinstance(body.get(name), str) for name in ("account", "url")
        ):
            return _bad('send JSON like {"account": "acct_1", "url": "https://..."}')
        try:
            secret = simulator.register_webhook(
                body["account"], body["url"], str(body.get("secret", ""))
            )
        except ValueError as refusal:
            return _bad(str(refusal))
        return JSONResponse({"secret": secret}, status_code=201)

    async def tell_merchants_secrets(request: Request) -> Response:
        """Let a merchant's endpoint verify what it gets."""
        simulator = simulators.get("merchant")
        body = await _json(request)
        if not isinstance(simulator, MerchantEndpoints):
            return _unknown(simulators)
        secrets = body.get("secrets") if isinstance(body, dict) else None
        if not isinstance(secrets, list) or not all(isinstance(s, str) for s in secrets):
            return _bad('send JSON like {"secrets": ["whsec_..."]}')
        simulator.tell_secrets(request.path_params["merchant"], secrets)
        return Response(status_code=204)

    async def set_event_faults(request: Request) -> Response:
        """Let Stripe's events come twice, late or out of order; an empty list ends it."""
        simulator = simulators.get("stripe")
        body = await _json(request)
        if not isinstance(simulator, StripeSimulator):
            return _unknown(simulators)
        try:
            faults = read_event_faults(body.get("rules") if isinstance(body, dict) else None)
        except ValueError as refusal:
            return _bad(str(refusal))
        simulator.events.set_faults(faults)
        return JSONResponse({"rules": len(faults)})

    async def reset(_: Request) -> Response:
        """Behave again and forget the vendors' objects; a chain cannot forget, so it stays."""
        for simulator in simulators.values():
            simulator.clear_faults()
            if isinstance(simulator, StripeSimulator | AmazonPaySimulator):
                simulator.reset()
        return Response(status_code=204)

    return [
        Route("/health", health),
        Route("/reset", reset, methods=["POST"]),
        Route("/stripe/accounts", add_stripe_account, methods=["POST"]),
        Route("/stripe/webhook_endpoints", add_webhook_endpoint, methods=["POST"]),
        Route("/merchant/{merchant}/secrets", tell_merchants_secrets, methods=["PUT"]),
        Route("/stripe/event_faults", set_event_faults, methods=["PUT"]),
        Route("/amazon_pay/merchants", add_amazon_pay_merchant, methods=["POST"]),
        Route("/amazon_pay/permissions", grant_amazon_pay_permission, methods=["POST"]),
        Route("/solana/pay", pay_on_chain, methods=["POST"]),
        Route("/solana/fund", fund_wallet, methods=["POST"]),
        Route("/{name}/dump", dump),
        Route("/{name}/faults", set_faults, methods=["PUT"]),
        Route("/{name}/faults", clear_faults, methods=["DELETE"]),
    ]


async def _json(request: Request) -> object:
    try:
        body: object = await request.json()
        return body
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None


def _bad(message: str) -> Response:
    return JSONResponse({"error": message}, status_code=400)


def _unknown(simulators: Mapping[str, Simulator]) -> Response:
    message = f"no such simulator; this sandbox runs {', '.join(sorted(simulators))}"
    return JSONResponse({"error": message}, status_code=404)
