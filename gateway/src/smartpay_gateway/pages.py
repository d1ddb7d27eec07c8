"""What the edge shows to anybody: the API's description and a page to read it.

Replies that stand in the configuration (direct_response), read from PUBLIC_FOLDER at start.
Envoy's file_server would read them piece by piece, but its API is marked as work in progress and
not covered by Envoy's threat model, and it knows neither ETags nor a route's headers; it has no
place where anybody calls. The price: a reply waits whole in memory for a slow reader, so the
pages have a rate limit of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.route.v3 as route
import envoy_data_plane.envoy.type.matcher.v3 as matcher

from smartpay_gateway import rate_limits
from smartpay_gateway.templates import PUBLIC, hole
from smartpay_gateway.transport import packed

DESCRIPTION = "/openapi.json"
PAGE = "/docs"
SCRIPT = "scalar-1.72.1.js"
DOCS_PAGE = PUBLIC / "docs-page"

# Scalar writes its styles into the page, its fonts and icons are data, its worker is a blob.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_GUARDED = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# Asked for again each time, and sent only when it changed.
_REVALIDATED = _GUARDED | {"cache-control": "no-cache"}
# Its name changes with its content.
_KEPT = _GUARDED | {"cache-control": "public, max-age=31536000, immutable"}


@dataclass(frozen=True)
class Page:
    """One file under one path; `content` is what its ETag is made of, empty for none."""

    path: str
    file: str
    headers: dict[str, str]
    content: bytes = field(default=b"", repr=False)

    @property
    def etag(self) -> str:
        """Names the content; weak, since it may travel compressed."""
        return f'W/"{hashlib.sha256(self.content).hexdigest()[:32]}"'


def pages(description: str, folder: Path = DOCS_PAGE) -> tuple[Page, ...]:
    """Lists what is shown; `description` is the text of openapi.json."""
    html = (folder / "index.html").read_bytes()
    json_headers = _REVALIDATED | {"content-type": "application/json"}
    # Without the charset browsers misread the script.
    html_headers = _REVALIDATED | {"content-type": "text/html; charset=utf-8"}
    return (
        Page(DESCRIPTION, "openapi.json", json_headers, description.encode()),
        Page(PAGE, "docs-page/index.html", html_headers, html),
        Page(f"{PAGE}/", "docs-page/index.html", html_headers, html),
        # 4.4 MB, so it is kept compressed: nobody without a token makes us compress it.
        Page(
            f"{PAGE}/{SCRIPT}",
            f"docs-page/{SCRIPT}.gz",
            _KEPT | {"content-encoding": "gzip", "content-type": "text/javascript; charset=utf-8"},
        ),
    )


def page_routes(shown: Sequence[Page], not_for_pages: Sequence[str]) -> list[route.Route]:
    """Routes each page past the filters in `not_for_pages`, which know only the contract."""
    routes = []
    for page in shown:
        if page.content:
            routes.append(_route(page, 304, not_for_pages))
        routes.append(_route(page, 200, not_for_pages))
    return routes


def _route(page: Page, status: int, not_for_pages: Sequence[str]) -> route.Route:
    unchanged = status == 304
    headers = page.headers | ({"etag": page.etag} if page.content else {})
    return route.Route(
        name=f"{page.path} {status}",
        match=_asked(page, *([_knows(page.etag)] if unchanged else [])),
        direct_response=route.DirectResponseAction(
            status=status,
            body=None
            if unchanged
            else core.DataSource(filename=f"{hole('PUBLIC_FOLDER')}/{page.file}"),
        ),
        response_headers_to_add=[
            core.HeaderValueOption(
                header=core.HeaderValue(key=name, value=value),
                append_action=(core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD),
            )
            for name, value in headers.items()
        ],
        # Envoy takes every 3xx for a redirection.
        response_headers_to_remove=["location"],
        typed_per_filter_config=rate_limits.of_pages()
        | {name: packed(route.FilterConfig(disabled=True)) for name in not_for_pages},
    )


def _asked(page: Page, *more: route.HeaderMatcher) -> route.RouteMatch:
    reading = route.HeaderMatcher(
        name=":method",
        string_match=matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex="GET|HEAD")),
    )
    return route.RouteMatch(path=page.path, headers=[reading, *more])


def _knows(etag: str) -> route.HeaderMatcher:
    # If-None-Match compares weakly (RFC 9110, 13.1.2).
    return route.HeaderMatcher(
        name="if-none-match",
        string_match=matcher.StringMatcher(contains=etag.removeprefix("W/")),
    )
