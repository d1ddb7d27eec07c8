"""Access tokens by client_credentials (RFC 6749 section 4.4), as Cognito's /oauth2/token gives."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from smartpay_client import limits
from smartpay_client.errors import (
    DeadlineExceeded,
    ServerFault,
    SmartPayError,
    TokenRefused,
    Unavailable,
    retry_after,
)
from smartpay_client.plan import Answer, Lost, Pause, Plan, Send
from smartpay_client.repeating import backoff


@dataclass(frozen=True)
class Credentials:
    """Who asks for tokens, and where.

    Attributes:
        token_url: the issuer's token endpoint.
        scopes: fewer scopes than the client may have; all of them when empty.
    """

    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    scopes: tuple[str, ...] = ()

    def question(self, seconds: float) -> Send:
        """Spells the request for a token, with HTTP basic; RFC 6749 section 2.3.1."""
        pair = f"{quote(self.client_id, safe='')}:{quote(self.client_secret, safe='')}"
        form = {"grant_type": "client_credentials"}
        if self.scopes:
            form["scope"] = " ".join(self.scopes)
        return Send(
            "POST",
            self.token_url,
            {
                "authorization": "Basic " + base64.b64encode(pair.encode()).decode(),
                "content-type": "application/x-www-form-urlencoded",
            },
            urlencode(form).encode(),
            seconds,
            to_issuer=True,
        )


@dataclass(frozen=True)
class _Token:
    text: str = field(repr=False)
    renew_at: float
    ends: float


class Tokens:
    """Holds the client's token and renews it early. Whoever carries out `fetch` holds a lock.

    Args:
        credentials: who asks.
        clock: seconds, monotonic.
        chance: a number from 0 to 1 per call, for jitter.
    """

    def __init__(
        self, credentials: Credentials, clock: Callable[[], float], chance: Callable[[], float]
    ) -> None:
        self._credentials = credentials
        self._clock = clock
        self._chance = chance
        self._token: _Token | None = None

    def held(self, refused: str) -> str | None:
        """Answers the token that needs no renewal; None when the issuer should be asked."""
        token = self._token
        if token is None or token.text == refused or self._clock() >= token.renew_at:
            return None
        return token.text

    def fetch(self, refused: str, ends: float) -> Plan[str | SmartPayError]:
        """Answers a token, asking the issuer if nobody did while the lock was waited for.

        Args:
            refused: a token the edge has just refused.
            ends: when the call must end.
        """
        tries = 0
        while (token := self.held(refused)) is None:
            asked = self._clock()
            seconds = min(limits.TOKEN_SECONDS, ends - asked)
            if seconds <= 0:
                return DeadlineExceeded("The time was up before the issuer gave a token.")
            reply: Answer | Lost = yield self._credentials.question(seconds)
            tries += 1
            outcome = _outcome(reply, asked)
            if isinstance(outcome, _Token):
                self._token = outcome
                return outcome.text
            old = self._token
            if old is not None and old.text != refused and self._clock() < old.ends:
                # An issuer that is away must not stop calls whose token is still good.
                again = min(self._clock() + limits.TOKEN_AGAIN_SECONDS, old.ends)
                self._token = _Token(old.text, again, old.ends)
                return old.text
            pause = backoff(tries, outcome.retry_after, self._chance())
            is_final = isinstance(outcome, TokenRefused) or (
                isinstance(reply, Lost) and reply.hopeless
            )
            if is_final or tries >= limits.TRIES or self._clock() + pause >= ends:
                return outcome
            yield Pause(pause)
        return token


def _outcome(reply: Answer | Lost, asked: float) -> _Token | SmartPayError:
    if isinstance(reply, Lost):
        family = DeadlineExceeded if reply.timed_out else Unavailable
        error = family(
            f"The issuer of tokens: {reply.detail}", remedy="Check token_url, then repeat the call."
        )
        error.__cause__ = reply.cause
        return error
    if reply.status == 200:
        try:
            body = json.loads(reply.body)
            text, life = body["access_token"], body.get("expires_in", limits.TOKEN_LIFE_SECONDS)
            if isinstance(text, str) and text:
                early = min(limits.TOKEN_EARLY_SECONDS, float(life) / 2)
                return _Token(text, asked + float(life) - early, asked + float(life))
        except (ValueError, TypeError, KeyError, AttributeError):
            pass  # refused right below, in words that hold nothing of the answer
        return ServerFault(
            "The issuer's answer holds no token.", status=200, remedy="Check token_url."
        )
    if reply.status == 429 or reply.status >= 500:
        return Unavailable(
            f"The issuer of tokens answered HTTP {reply.status}.",
            status=reply.status,
            remedy="Repeat the call in a moment.",
            retry_after=retry_after(reply.headers),
        )
    return TokenRefused(
        f"The issuer refused the client: {_oauth_error(reply)}.",
        status=reply.status,
        remedy="Check client_id, client_secret, scopes and token_url.",
    )


def _oauth_error(answer: Answer) -> str:
    """Reads the error code of RFC 6749 section 5.2 and nothing else."""
    found = re.search(rb'"error"\s*:\s*"([a-z_]{1,40})"', answer.body)
    return found[1].decode() if found else f"HTTP {answer.status}"
