"""Carries one call from request to answer: token, deadline, one idempotency key, repeats."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypedDict, TypeVar, Unpack
from urllib.parse import quote, urlencode

from smartpay_client import limits
from smartpay_client.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ServerFault,
    SmartPayError,
    TokenRefused,
    Unavailable,
    error_of,
)
from smartpay_client.method import Method
from smartpay_client.plan import Answer, Authorize, Lost, Page, Pause, Plan, Send
from smartpay_client.repeating import IN_FLIGHT, backoff, is_worth_repeating
from smartpay_client.tokens import Tokens
from smartpay_client.wire import UnreadableError, camel_case, decode, encode, parse

T = TypeVar("T")
A = TypeVar("A")

try:
    _VERSION = version("smartpay-orchestrator-client")
except PackageNotFoundError:  # run from a checkout
    _VERSION = "0"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
# A merchant's own id of a customer may hold . and @, but not begin with them.
_PATH_VALUE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.@-]{0,63}")


class CallOptions(TypedDict, total=False):
    """What every call takes beside its own arguments.

    Attributes:
        deadline: seconds for the whole call, repeats and pauses included.
    """

    deadline: float


class MoneyOptions(CallOptions, total=False):
    """What calls take that move money or make something new.

    Attributes:
        idempotency_key: the same key makes it the same call, for ever; a fresh one when absent.
            Give your own (an order's id, stored before) if it must hold over your own crashes.
    """

    idempotency_key: str


class Parts(TypedDict, total=False):
    """What a request is made of.

    Attributes:
        path: the path's variables.
        query: the query's parameters, several of a name as a list; empty ones are left out.
        body: JSON; no body when absent.
        accept: what the answer may be; JSON when absent.
        ends: when the call must end, by the clock; by the call's options when absent.
    """

    path: Mapping[str, str]
    query: Mapping[str, Any]
    body: Mapping[str, Any]
    accept: str
    ends: float


def parts_of(method: Method, fields: Mapping[str, Any]) -> Parts:
    """Makes the parts of a request of its fields, those that are None left out.

    Args:
        method: says which fields stand in the path, and whether the others are query or body.
        fields: by the contract's names.
    """
    path = {name: fields[name] for name in method.path_variables}
    rest = {
        camel_case(name): encode(value)
        for name, value in fields.items()
        if name not in path and value is not None
    }
    return {"path": path, "query": rest} if method.verb == "GET" else {"path": path, "body": rest}


class Session:
    """All of a client but its input and output.

    Args:
        base_url: of the edge.
        tokens: the client's token.
        deadline: seconds for a call that names none; None for the method's own.
        clock: seconds, monotonic.
        chance: a number from 0 to 1 per call, for jitter.
    """

    def __init__(
        self,
        base_url: str,
        tokens: Tokens,
        deadline: float | None,
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.tokens = tokens
        self.clock = clock
        self.chance = chance
        self._base_url = base_url.rstrip("/")
        self._deadline = deadline

    def ends(self, method: Method, options: CallOptions) -> float:
        """Answers when a call must end, by the clock."""
        seconds = options.get("deadline", self._deadline)
        if seconds is None:
            one = method.deadline_seconds + limits.ANSWER_MARGIN_SECONDS
            seconds = limits.TRIES_WORTH * one
        return self.clock() + seconds

    def is_bounded(self, options: CallOptions) -> bool:
        """Tells whether the caller, not the method, says when a call must end."""
        return options.get("deadline", self._deadline) is not None

    def ask(
        self, kind: type[T], method: Method, options: CallOptions, **parts: Unpack[Parts]
    ) -> Plan[T]:
        """Calls a method and reads its answer; see `_call`."""
        return self._call(method, options, partial(_decoded, kind), **parts)

    def tell(self, method: Method, options: CallOptions, **parts: Unpack[Parts]) -> Plan[None]:
        """Calls a method whose answer says no more than that it worked; see `_call`."""
        return self._call(method, options, _nothing, **parts)

    def page(
        self,
        kind: type[A],
        items: Callable[[A], tuple[T, ...]],
        method: Method,
        options: CallOptions,
        fields: Mapping[str, Any],
    ) -> Callable[[str], Plan[Page[T]]]:
        """Answers how to read one page of a list; a list without pages is one."""

        def read(token: str) -> Plan[Page[T]]:
            parts = parts_of(method, {**fields, "page_token": token})
            answer = yield from self.ask(kind, method, options, **parts)
            return Page(items(answer), getattr(answer, "next_page_token", ""))

        return read

    def open(self, method: Method, options: CallOptions, **parts: Unpack[Parts]) -> Plan[Any]:
        """Calls a method and answers the opened response; see `_call`."""
        return self._call(method, options, _as_it_is, streams=True, **parts)

    def _call(
        self,
        method: Method,
        options: CallOptions,
        read: Callable[[Any], T],
        *,
        streams: bool = False,
        **parts: Unpack[Parts],
    ) -> Plan[T]:
        """Calls a method until it is answered, refused for good, or the time is up.

        Key and body are made once, before the first try: every try is the same call.

        Args:
            method: what to call.
            options: of the caller.
            read: makes the result of the answer.
            streams: leave the body of a 200 to the caller.
            **parts: of the request.

        Raises:
            SmartPayError: the last failure, with the idempotency key.
        """
        url = self._url(method, parts.get("path", {}), parts.get("query", {}))
        content = json.dumps(parts["body"]).encode() if "body" in parts else b""
        headers = {
            "accept": parts.get("accept", "application/json"),
            "user-agent": f"smartpay-client/{_VERSION}",
        }
        if content:
            headers["content-type"] = "application/json"
        key = _key(method, options)
        if key:
            headers["idempotency-key"] = key
        ends = parts.get("ends", self.ends(method, options))
        try:
            reply = yield from self._repeat(method, url, headers, content, ends, streams)
            return read(reply)
        except SmartPayError as error:
            error.idempotency_key = key
            raise

    def _repeat(
        self,
        method: Method,
        url: str,
        headers: Mapping[str, str],
        content: bytes,
        ends: float,
        streams: bool,
    ) -> Plan[Any]:
        tries, refused = 0, ""
        while True:
            token: str | SmartPayError = yield Authorize(refused, ends)
            if isinstance(token, SmartPayError):
                raise token
            left = ends - self.clock()
            if left <= 0:
                raise DeadlineExceeded("The time was up before the call could be made.")
            allowed = min(
                method.deadline_seconds, left - min(limits.ANSWER_MARGIN_SECONDS, left / 4)
            )
            reply = yield Send(
                method.verb,
                url,
                {
                    **headers,
                    "authorization": f"Bearer {token}",
                    # The edge stops by then and says how things stand: more than a timeout tells.
                    "grpc-timeout": f"{max(1, int(allowed * 1000))}m",
                },
                content,
                min(left, allowed + limits.ANSWER_MARGIN_SECONDS),
                streams=streams,
            )
            failure = _failure(reply)
            if failure is None:
                return reply
            if isinstance(failure, TokenRefused) and not refused:
                refused = token
                continue
            if not is_worth_repeating(method, failure, reply):
                raise failure
            if failure.reason == IN_FLIGHT:
                # Somebody is at work on it: asking again costs nothing, however long it takes.
                jitter = limits.IN_FLIGHT_SECONDS * (0.5 + self.chance() / 2)
                pause = max(failure.retry_after or 0.0, jitter)
            else:
                tries += 1
                pause = backoff(tries, failure.retry_after, self.chance())
            if tries >= limits.TRIES or self.clock() + pause >= ends:
                raise failure
            yield Pause(pause)

    def _url(self, method: Method, path: Mapping[str, str], query: Mapping[str, Any]) -> str:
        filled = method.path
        for name, value in path.items():
            # Anything else could lead to another path; the edge would refuse these as well.
            if not isinstance(value, str) or not _PATH_VALUE.fullmatch(value):
                raise InvalidRequest(
                    f"{name} must be 1 to 64 characters of A-Z a-z 0-9 _ - . @, not . or @ first.",
                    field=name,
                    remedy="Give the id as the API answered it.",
                )
            filled = filled.replace("{" + name + "}", quote(value, safe="@"))
        given = {n: "true" if value is True else value for n, value in query.items() if value}
        return self._base_url + filled + ("?" + urlencode(given, doseq=True) if given else "")


def _decoded(kind: type[T], answer: Answer) -> T:
    try:
        return decode(kind, parse(answer.body))
    except UnreadableError as error:
        raise ServerFault(
            f"The answer is not of the documented shape ({error}).",
            status=answer.status,
            reason="ANSWER_UNREADABLE",
            remedy="Check base_url and whether this client is up to date.",
            request_id=answer.headers.get("x-request-id", ""),
        ) from error


def _nothing(answer: object) -> None:
    """Reads nothing."""


def _as_it_is(response: T) -> T:
    return response


def _key(method: Method, options: CallOptions) -> str:
    if not method.needs_key:
        return ""
    key = options.get("idempotency_key")
    if key is None:
        return str(uuid.uuid4())
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise InvalidRequest(
            "The idempotency key must be 1 to 255 printable ASCII characters without spaces.",
            reason="IDEMPOTENCY_KEY_REQUIRED",
            field="idempotency-key",
            remedy="Give a fresh key per payment you intend, the same one when repeating.",
        )
    return key


def _failure(reply: object) -> SmartPayError | None:
    if isinstance(reply, Lost):
        family = DeadlineExceeded if reply.timed_out else Unavailable
        remedy = (
            "Give the file of the certificate authority as ca_file."
            if reply.hopeless
            else "Repeat the call with the same idempotency key: the outcome may be unknown."
            if reply.reached
            else "Nothing was sent. Check base_url and the network, then repeat the call."
        )
        error = family(reply.detail, remedy=remedy)
        error.__cause__ = reply.cause
        return error
    if isinstance(reply, Answer) and not 200 <= reply.status < 300:
        return error_of(reply.status, reply.headers, reply.body)
    return None
