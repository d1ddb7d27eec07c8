"""The page where a payer passes or fails 3-D Secure, so that a person or a demo can finish it."""

from __future__ import annotations

import html
from collections.abc import Callable
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from smartpay_sandbox.stripe_objects import Json
from smartpay_sandbox.stripe_refusals import StripeRefusalError, invalid

OUTCOMES = {"success": True, "fail": False}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sandbox bank</title></head>
<body><h1>Sandbox bank</h1><p>{what}: {intent}. Status: {status}.</p>
<p><a href="{here}/authenticate?outcome=success">I am the cardholder</a></p>
<p><a href="{here}/authenticate?outcome=fail">I am not</a></p></body></html>
"""


def authentication_page(
    intent_of: Callable[[str], Json], authenticated: Callable[[str, bool], Json]
) -> ASGIApp:
    """Build the page: `/3ds/{intent}` shows the links, `.../authenticate?outcome=` acts.

    Acting by GET sends the payer back to the intent's return_url as Stripe does; by POST, or
    where there is no return_url, it answers the intent's id and status as JSON.
    """

    async def page(request: Request) -> Response:
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        intent_id, _, action = path.removeprefix("/3ds/").partition("/")
        try:
            if action == "authenticate":
                return _act(request, intent_id)
            if action or request.method != "GET":
                return Response(status_code=404)
            return _show(request, intent_of(intent_id))
        except StripeRefusalError as refusal:
            return JSONResponse(refusal.body, status_code=refusal.status)

    def _act(request: Request, intent_id: str) -> Response:
        outcome = request.query_params.get("outcome", "")
        if outcome not in OUTCOMES:
            raise invalid("outcome must be success or fail", param="outcome")
        action = intent_of(intent_id)["next_action"] or {}
        intent = authenticated(intent_id, OUTCOMES[outcome])
        back = action.get("redirect_to_url", {}).get("return_url")
        if back is None or request.method != "GET":
            return JSONResponse({"id": intent["id"], "status": intent["status"]})
        kind = intent["object"]
        result = {
            kind: intent["id"],
            f"{kind}_client_secret": intent["client_secret"],
            "redirect_status": "succeeded" if OUTCOMES[outcome] else "failed",
        }
        separator = "&" if "?" in back else "?"
        return RedirectResponse(f"{back}{separator}{urlencode(result)}", status_code=303)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await page(Request(scope, receive))
        await response(scope, receive, send)

    return app


def _show(request: Request, intent: Json) -> Response:
    return HTMLResponse(
        _PAGE.format(
            intent=html.escape(intent["id"]),
            what=html.escape(_what(intent)),
            status=html.escape(intent["status"]),
            here=html.escape(request.url.path.rstrip("/")),
        )
    )


def _what(intent: Json) -> str:
    if intent["object"] == "setup_intent":
        return "Saving a card"
    return f"Payment of {intent['amount']} {intent['currency'].upper()}"
