"""Stripe's error shapes (docs.stripe.com/api/errors), so that a refusal reads as Stripe's own."""

from __future__ import annotations

from typing import Any


class StripeRefusalError(Exception):
    """A request that Stripe answers with an error: HTTP status and the `error` object."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(error.get("message", ""))
        self.status = status
        self.error = error

    @property
    def body(self) -> dict[str, Any]:
        """The response body, ready to be written as JSON."""
        return {"error": self.error}


def error(kind: str, message: str, code: str | None = None, **details: object) -> dict[str, Any]:
    """Build an `error` object; absent details are left out, as Stripe does."""
    found: dict[str, Any] = {"message": message, "type": kind}
    if code is not None:
        found["code"] = code
        found["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
    found.update({name: value for name, value in details.items() if value is not None})
    return found


def invalid(
    message: str, code: str | None = None, param: str | None = None, **details: object
) -> StripeRefusalError:
    """A 400 for a request that cannot be executed as it stands."""
    return StripeRefusalError(
        400, error("invalid_request_error", message, code, param=param, **details)
    )


def missing(kind: str, object_id: str, param: str, status: int = 404) -> StripeRefusalError:
    """No such object on this account; 404 when it was the path's, 400 when it was a parameter."""
    return StripeRefusalError(
        status,
        error(
            "invalid_request_error",
            f"No such {kind}: '{object_id}'",
            "resource_missing",
            param=param,
        ),
    )


def unauthorized(message: str) -> StripeRefusalError:
    """A 401: no key, or one that no account has."""
    return StripeRefusalError(401, error("invalid_request_error", message))


def key_in_use(key: str) -> StripeRefusalError:
    """A 409: the first request with this idempotency key is still being executed."""
    return StripeRefusalError(
        409,
        error(
            "invalid_request_error",
            f"Another request with this idempotency key is still in progress: {key}. "
            "Please try again later.",
            "idempotency_key_in_use",
        ),
    )


def key_reused(key: str) -> StripeRefusalError:
    """A 400: the key belongs to a request with other parameters or another endpoint."""
    return StripeRefusalError(
        400,
        error(
            "idempotency_error",
            "Keys for idempotent requests can only be used with the same parameters they were "
            f"first used with. Try using a key other than '{key}' for a different request.",
        ),
    )


def broken() -> StripeRefusalError:
    """A 500, as a fault or as the answer to a defect of the sandbox itself."""
    return StripeRefusalError(500, error("api_error", "An unknown error occurred."))


def too_many() -> StripeRefusalError:
    """A 429: the request was not looked at."""
    return StripeRefusalError(
        429, error("invalid_request_error", "Request rate limit exceeded.", "rate_limit")
    )
