"""Which tokens are refused: by scope, client, use, issuer, expiry, algorithm, or signature.

Each refusal is seen by REST and by native gRPC, on real Envoys beside its two controls:
`smartpay_gateway.testing.refusals`.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization

from smartpay_gateway.testing import CLIENT_ID, Issuer
from smartpay_gateway.testing.attacks import READ, SERVICE, WRITE, Token, both, token
from smartpay_gateway.testing.issuer import public_key
from smartpay_gateway.testing.lifts import (
    Change,
    Document,
    Lift,
    at_edge,
    filter_of,
    for_anybody,
    without_claim,
)
from smartpay_gateway.testing.refusals import Refusals, Row
from smartpay_gateway.testing.strangers import publishing

DENIED = "403 ACCESS_DENIED, PERMISSION_DENIED"
REFUSED = "401 TOKEN_REFUSED, UNAUTHENTICATED"
PASSES = "200, OK"
AT_ONCE = {"headers": {"kid": "one"}}
HOUR = 3600


def tokens_of(document: Document) -> Document:
    return filter_of(document, "edge", "envoy.filters.http.jwt_authn")


def provider(**settings: object) -> Change:
    """Sets what is asked of every token; None leaves a setting out."""

    def change(document: Document) -> None:
        issuer = tokens_of(document)["providers"]["issuer"]
        issuer.update(settings)
        for name in [name for name, value in settings.items() if value is None]:
            del issuer[name]

    return change


def bad_tokens_taken(document: Document) -> None:
    (rule,) = (rule for rule in tokens_of(document)["rules"] if "requires" in rule)
    needed = {"requirements": [rule["requires"], {"allowMissingOrFailed": {}}]}
    rule["requires"] = {"requiresAny": needed}


def resigned(algorithm: str, key: Any = None, **header: object) -> Token:
    """Signs good claims in another way, under the name of the issuer's key."""

    def act(issuer: Issuer) -> str:
        signing = key(issuer) if key else issuer.key
        headers = {"kid": "one", **header}
        return jwt.encode(issuer.claims(READ), signing, algorithm=algorithm, headers=headers)

    return act


def tampered(issuer: Issuer) -> str:
    header, _, signature = issuer.token(WRITE).split(".")
    more = json.dumps(issuer.claims(READ)).encode()
    return f"{header}.{base64.urlsafe_b64encode(more).rstrip(b'=').decode()}.{signature}"


def cut(issuer: Issuer) -> str:
    return issuer.token(READ)[:-8]


def public_text(issuer: Issuer) -> bytes:
    """The public key as text, which everybody has: no secret."""
    return issuer.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def by_secret(issuer: Issuer) -> str:
    """Signs with the public key as if it were a secret (RFC 8725, 2.1); by hand, PyJWT refuses."""
    import hashlib
    import hmac

    def part(content: object) -> str:
        text = json.dumps(content).encode()
        return base64.urlsafe_b64encode(text).rstrip(b"=").decode()

    signed = f"{part({'alg': 'HS256', 'kid': 'one', 'typ': 'JWT'})}.{part(issuer.claims(READ))}"
    mac = hmac.new(public_text(issuer), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def secret_key(issuer: Issuer) -> dict[str, Any]:
    text = base64.urlsafe_b64encode(public_text(issuer)).rstrip(b"=").decode()
    return {"kty": "oct", "kid": "one", "alg": "HS256", "k": text}


SCOPE = at_edge("scope", without_claim("scope"))
CLIENT = at_edge("client", without_claim("client_id"))
USE = at_edge("token use", without_claim("token_use"))
CLOCK = at_edge("clock", provider(clockSkewSeconds=2 * HOUR))
TOKEN = (
    at_edge("a good token", bad_tokens_taken),
    at_edge("scopes", for_anybody("edge", SERVICE + "GetPayment", "scopes_")),
)


def published(what: str, key: Any) -> Lift:
    return Lift("edge", f"key set without {what}", holes=publishing(key))


def row(defence: str, name: str, by: Token, refused: str, *lifts: Lift) -> Row:
    return Row(defence, name, both(by), refused, both(token(READ)), lifts, PASSES)


DENIALS = [
    *(
        row("scope", name, token(scope), DENIED, SCOPE)
        for name, scope in {
            "another": WRITE,
            "longer at its end": f"{READ}X",
            "longer at its front": f"x{READ}",
            "after a tab": f"openid\t{READ}",
            "after a line's end": f"openid\n{READ}",
            "in capitals": READ.upper(),
            "none": None,
            "empty": "",
        }.items()
    ),
    *(
        row("client", name, token(READ, client_id=client), DENIED, CLIENT)
        for name, client in {
            "another": "stranger",
            "longer": f"{CLIENT_ID}x",
            "all of them": f"{CLIENT_ID}|other0client",
            "none": None,
        }.items()
    ),
    *(
        row("token use", str(use), token(READ, token_use=use), DENIED, USE)
        for use in ("id", "refresh", None)
    ),
]
REFUSALS = [
    row(
        "issuer",
        "another's name",
        token(READ, iss="https://stranger.example"),
        REFUSED,
        at_edge("issuer", provider(issuer=None)),
    ),
    row(
        "issuer",
        "another's key under our key's name",
        resigned("RS256", lambda issuer: issuer.stranger),
        REFUSED,
        published("the stranger's key", lambda issuer: public_key(issuer.stranger)),
    ),
    row(
        "issuer",
        "a key of no name we know",
        resigned("RS256", kid="two"),
        REFUSED,
        published("that name", lambda issuer: public_key(issuer.key, "two")),
    ),
    row(
        "issuer",
        "a key the token brings along",
        resigned(
            "RS256",
            lambda issuer: issuer.stranger,
            jwk={"kty": "RSA"},
            jku="https://stranger.example",
        ),
        REFUSED,
        published("the stranger's key", lambda issuer: public_key(issuer.stranger)),
    ),
    row("expiry", "over", lambda i: i.token(READ, exp=int(time.time()) - 60), REFUSED, CLOCK),
    row("expiry", "not begun", lambda i: i.token(READ, nbf=int(time.time()) + 60), REFUSED, CLOCK),
    row(
        "expiry",
        "none",
        token(READ, exp=None),
        REFUSED,
        at_edge("expiry", provider(requireExpiration=None)),
    ),
    row("algorithm", "none", resigned("none", lambda _: ""), REFUSED, *TOKEN),
    row(
        "algorithm",
        "a secret's, with what is public as the secret",
        by_secret,
        REFUSED,
        published("secrets", secret_key),
    ),
    row(
        "algorithm",
        "another than the key is for",
        resigned("RS512"),
        REFUSED,
        published("RS512", lambda issuer: {**public_key(issuer.key), "alg": "RS512"}),
    ),
    row("signature", "none at all: no token", lambda _: None, REFUSED, *TOKEN),
    row("signature", "of other claims", tampered, REFUSED, *TOKEN),
    row("signature", "cut", cut, REFUSED, *TOKEN),
    row("signature", "of nothing: garbage", lambda _: "garbage", REFUSED, *TOKEN),
]


class TestTokens(Refusals):
    rows = (*DENIALS, *REFUSALS)
    defences = frozenset(
        {"scope", "client", "token use", "issuer", "expiry", "algorithm", "signature"}
    )
