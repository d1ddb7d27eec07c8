"""The page where a buyer agrees or walks away, so that a person, a test or a demo can finish it."""

from __future__ import annotations

import html
from collections.abc import Callable
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from smartpay_sandbox.amazon_pay_objects import Json
from smartpay_sandbox.amazon_pay_refusals import AmazonPayRefusalError

CHECKOUT = "/checkout/"
"""Where the page is, below the simulator's root; the session's id follows."""
DEFAULT_CARD = "1111"

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sandbox wallet</title></head>
<body><h1>Sandbox wallet</h1><p>Order {order}: {amount} {currency}. State: {state}.</p>
<ul>
<li><a href="{here}/agree?card=1111">Pay with Visa ending in 1111</a></li>
<li><a href="{here}/agree?card=3434">Pay with a card that is declined (3434)</a></li>
<li><a href="{here}/agree?card=0701">Pay with a card that takes half a minute (0701)</a></li>
<li><a href="{here}/agree?card=4354">Pay with one that is declined after that (4354)</a></li>
<li><a href="{here}/cancel">Go back without paying</a></li>
</ul></body></html>
"""


def checkout_page(
    session_of: Callable[[str], Json],
    agree: Callable[[str, str], Json],
    walk_away: Callable[[str], Json],
) -> ASGIApp:
    """Build the page: `/checkout/{session}` shows links; `.../agree?card=`, `.../cancel` act.

    Acting by GET sends the buyer back to the merchant as Amazon does; by POST it answers the
    session's id and state as JSON. The buyer's consent moves no money: completing does.
    """

    async def page(request: Request) -> Response:
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        session_id, _, action = path.removeprefix(CHECKOUT).partition("/")
        try:
            if action == "agree":
                card = request.query_params.get("card", DEFAULT_CARD)
                return _back(request, agree(session_id, card), "checkoutResultReturnUrl")
            if action == "cancel":
                return _back(request, walk_away(session_id), "checkoutCancelUrl")
            if action or request.method != "GET":
                return Response(status_code=404)
            return _show(request, session_of(session_id))
        except AmazonPayRefusalError as refusal:
            return JSONResponse(refusal.body, status_code=refusal.status)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await page(Request(scope, receive))
        await response(scope, receive, send)

    return app


def _back(request: Request, session: Json, field: str) -> Response:
    web = session["webCheckoutDetails"]
    url = web[field] or web["checkoutResultReturnUrl"]
    if request.method != "GET":
        state = session["statusDetails"]["state"]
        return JSONResponse({"checkoutSessionId": session["checkoutSessionId"], "state": state})
    query = urlencode({"amazonCheckoutSessionId": session["checkoutSessionId"]})
    return RedirectResponse(f"{url}{'&' if '?' in url else '?'}{query}", status_code=303)


def _show(request: Request, session: Json) -> Response:
    amount = session["paymentDetails"]["chargeAmount"] or {"amount": "-", "currencyCode": ""}
    return HTMLResponse(
        _PAGE.format(
            order=html.escape(str(session["merchantMetadata"]["merchantReferenceId"])),
            amount=html.escape(amount["amount"]),
            currency=html.escape(amount["currencyCode"]),
            state=html.escape(session["statusDetails"]["state"]),
            here=html.escape(request.url.path.rstrip("/")),
        )
    )
