"""Posts to addresses that strangers chose, without ever touching our own network.

A name is resolved here, every address it has must be public, and the connection goes to an
address that was checked: the socket itself is made by the check, so a name that resolves
otherwise a moment later gains nothing. No redirects, no cookies, no proxies, no compressed
answers, and of an answer only its beginning is read.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from smartpay_chassis.card_numbers import holds_card_number
from smartpay_payments.domain.public_addresses import Address, is_loopback, is_public
from smartpay_payments.domain.webhook_delivery import EXCERPT_LETTERS_MAX, Reply

CONNECT_SECONDS = 5.0
"""For resolving, connecting and TLS; who needs more is not there."""
CONNECTIONS_MAX = 64
"""Open at once in all; the courier sends fewer."""
EXCERPT_BYTES_MAX = 4 * EXCERPT_LETTERS_MAX
"""UTF-8's letters have up to four bytes."""
ANSWER_LINE_BYTES_MAX = 8 * 1024
"""Of each header line of an answer; aiohttp's own default, named because it is a bound."""
USER_AGENT = "SmartPay-Webhooks/1"

Resolve = Callable[[str, int, socket.AddressFamily], Awaitable[list[ResolveResult]]]


class AddressRefusedError(OSError):
    """An address is not public, so nothing is sent there."""


class _CheckingResolver(AbstractResolver):
    """Resolves by `resolve` and refuses a name with any address that may not be called."""

    def __init__(self, resolve: Resolve, may_call: Callable[[Address], bool]) -> None:
        self._resolve = resolve
        self._may_call = may_call

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Answers the host's addresses.

        Raises:
            AddressRefusedError: one of them may not be called.
        """
        found = await self._resolve(host, port, family)
        for result in found:
            if not self._may_call(ipaddress.ip_address(result["host"])):
                raise AddressRefusedError("one of the host's addresses is not public")
        return found

    async def close(self) -> None:
        """Holds nothing open."""


class WebhookSender:
    """Sends one body to one address.

    Args:
        timeout_seconds: for the whole exchange.
        allow_loopback: true in development, where receivers live on this machine.
        resolve: how names become addresses; the system's way when absent.
        trust: whom TLS trusts; the system's authorities when absent.
    """

    def __init__(
        self,
        timeout_seconds: float,
        *,
        allow_loopback: bool,
        resolve: Resolve | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=CONNECT_SECONDS)
        self._allow_loopback = allow_loopback
        self._resolve = resolve
        self._trust = trust
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Posts a body; answers what came of it and raises for nothing the network does."""
        try:
            async with self._opened().post(
                url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                excerpt = await _beginning_of(answer)
                # What is left is not read, so the connection can't be used again.
                if not answer.content.at_eof():
                    answer.close()
                return Reply(answer.status, excerpt)
        except TimeoutError:
            return Reply(failure_reason="timeout")
        except aiohttp.ClientConnectorCertificateError:
            return Reply(failure_reason="certificate_refused")
        except aiohttp.ClientConnectorDNSError as error:
            refused = isinstance(error.os_error, AddressRefusedError)
            return Reply(failure_reason="address_refused" if refused else "name_unknown")
        except aiohttp.ClientSSLError:
            return Reply(failure_reason="tls_failed")
        except aiohttp.ClientConnectorError as error:
            refused = _was_refused(error)
            return Reply(failure_reason="address_refused" if refused else "connection_failed")
        except aiohttp.InvalidURL:
            return Reply(failure_reason="address_refused")
        except (aiohttp.ClientError, ValueError):
            return Reply(failure_reason="no_answer")

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            resolve = self._resolve or aiohttp.ThreadedResolver().resolve
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_CheckingResolver(resolve, self._may_call),
                    use_dns_cache=False,
                    limit=CONNECTIONS_MAX,
                    ssl=self._trust or True,
                    socket_factory=self._checked_socket,
                ),
                timeout=self._timeout,
                headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                max_line_size=ANSWER_LINE_BYTES_MAX,
                max_field_size=ANSWER_LINE_BYTES_MAX,
            )
        return self._session

    def _may_call(self, address: Address) -> bool:
        return is_public(address) or (self._allow_loopback and is_loopback(address))

    def _checked_socket(self, found: Any) -> socket.socket:  # noqa: ANN401 - aiohttp's tuple
        """Makes the socket for one address; the last check, past which nothing changes it.

        An address in the URL itself was never resolved, so this is the only one it meets.
        """
        family, kind, protocol, _, place = found
        if not self._may_call(ipaddress.ip_address(place[0])):
            raise AddressRefusedError("the address is not public")
        return socket.socket(family, kind, protocol)


def _was_refused(error: aiohttp.ClientConnectorError) -> bool:
    cause: BaseException | None = error.os_error
    if isinstance(cause, ExceptionGroup):
        return any(isinstance(e, AddressRefusedError) for e in cause.exceptions)
    return isinstance(cause, AddressRefusedError)


async def _beginning_of(answer: aiohttp.ClientResponse) -> str:
    """Reads the first letters of an answer, unless they could be a card's."""
    data = b""
    while len(data) < EXCERPT_BYTES_MAX and (more := await answer.content.readany()):
        data += more
    text = data[:EXCERPT_BYTES_MAX].decode("utf-8", "replace")[:EXCERPT_LETTERS_MAX]
    shown = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
    return "(withheld: holds what looks like a card number)" if holds_card_number(shown) else shown
