"""Pages of a list (AIP-158): opaque tokens bound to the method, the tenant and the filters."""

from __future__ import annotations

import base64
import hashlib

from smartpay_chassis.refusals import Kind, Refusal

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 200  # a page of payments with attempts stays below the 4 MiB message limit


def page_size(requested: int) -> int:
    """Answers the size to use: the default for 0, never more than the most."""
    return min(requested, PAGE_SIZE_MAX) if requested > 0 else PAGE_SIZE_DEFAULT


def _binding(bound_to: str) -> bytes:
    return hashlib.sha256(bound_to.encode()).digest()[:8]


def encode_page_token(position: str, *, bound_to: str) -> str:
    """Makes the token of a position. `bound_to` names method, tenant and filters."""
    return base64.urlsafe_b64encode(_binding(bound_to) + position.encode()).decode().rstrip("=")


def decode_page_token(token: str, *, bound_to: str) -> str:
    """Reads the position back; raises Refusal PAGE_TOKEN_INVALID for any other token."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        if raw[:8] == _binding(bound_to):
            return raw[8:].decode()
    except ValueError:  # no base64, no ASCII or no UTF-8: no token of ours
        pass
    raise Refusal(
        Kind.INVALID_ARGUMENT,
        "PAGE_TOKEN_INVALID",
        "The page token was not made by this list with these filters.",
        remedy="Use next_page_token of the page before with unchanged filters, or start anew.",
        field="page_token",
    )
