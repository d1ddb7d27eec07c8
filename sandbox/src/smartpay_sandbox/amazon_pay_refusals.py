"""Amazon Pay's error shape, so that a refusal reads as Amazon's own.

Statuses and reason codes: developer.amazon.com/docs/amazon-pay-api-v2/error-handling.html and the
error tables of each object's page.
"""

from __future__ import annotations


class AmazonPayRefusalError(Exception):
    """A request that Amazon Pay answers with an error: HTTP status, reason code, message."""

    def __init__(self, status: int, reason_code: str, message: str) -> None:
        super().__init__(f"{reason_code}: {message}")
        self.status = status
        self.reason_code = reason_code
        self.message = message

    @property
    def body(self) -> dict[str, str]:
        """The response body, ready to be written as JSON."""
        return {"reasonCode": self.reason_code, "message": self.message}


def invalid(parameter: str, why: str) -> AmazonPayRefusalError:
    """A 400 for a value that can't be used; names the parameter."""
    return AmazonPayRefusalError(400, "InvalidParameterValue", f"[{parameter}]: {why}")


def missing(parameter: str) -> AmazonPayRefusalError:
    """A 400 for a parameter that must be there."""
    return AmazonPayRefusalError(
        400, "MissingParameterValue", f"The value of [{parameter}] is missing."
    )


def unrecognized(parameter: str) -> AmazonPayRefusalError:
    """A 400 for a parameter that Amazon Pay, or this sandbox, does not know."""
    return AmazonPayRefusalError(
        400,
        "UnrecognizedField",
        f"[{parameter}] is not a field of this request, or the sandbox does not simulate it.",
    )


def bad_header(name: str, why: str) -> AmazonPayRefusalError:
    """A 400 for a header that can't be used."""
    return AmazonPayRefusalError(400, "InvalidHeaderValue", f"{name}: {why}")


def missing_header(name: str) -> AmazonPayRefusalError:
    """A 400 for a header that must be there."""
    return AmazonPayRefusalError(400, "MissingHeader", f"The header {name} is missing.")


def unauthorized(why: str) -> AmazonPayRefusalError:
    """A 401: nobody here has this public key."""
    return AmazonPayRefusalError(401, "UnauthorizedAccess", why)


def bad_signature(why: str) -> AmazonPayRefusalError:
    """A 403: the signature does not prove who sent the request."""
    return AmazonPayRefusalError(403, "InvalidRequestSignature", why)


def not_found(kind: str, object_id: str) -> AmazonPayRefusalError:
    """A 404 for an object that this account does not have."""
    return AmazonPayRefusalError(404, "ResourceNotFound", f"There is no {kind} {object_id}.")


def unsupported(method: str, path: str) -> AmazonPayRefusalError:
    """A 405 for an operation that does not exist."""
    return AmazonPayRefusalError(405, "UnsupportedOperation", f"{method} {path} is no operation.")


def amount_mismatch() -> AmazonPayRefusalError:
    """A 409: the amount is not the one the buyer agreed to."""
    return AmazonPayRefusalError(
        409, "AmountMismatch", "The chargeAmount is not the one of the Checkout Session."
    )


def currency_mismatch() -> AmazonPayRefusalError:
    """A 400: the currency is not that of the object."""
    return AmazonPayRefusalError(400, "CurrencyMismatch", "The currency is not the object's.")


def amount_exceeded(what: str) -> AmazonPayRefusalError:
    """A 400: more than the object allows."""
    return AmazonPayRefusalError(400, "TransactionAmountExceeded", what)


def wrong_state(kind: str, state: str) -> AmazonPayRefusalError:
    """A 422: the object's state allows no such operation; kind is as in the reason code."""
    return AmazonPayRefusalError(
        422, f"Invalid{kind}Status", f"The operation is not possible in state {state}."
    )


def declined(reason_code: str) -> AmazonPayRefusalError:
    """How a declined charge reads: 422, and 500 for a failure of Amazon's own."""
    status = 500 if reason_code == "ProcessingFailure" else 422
    return AmazonPayRefusalError(status, reason_code, "The transaction was not approved.")


def key_reused() -> AmazonPayRefusalError:
    """A 400: the idempotency key belongs to another request."""
    return AmazonPayRefusalError(
        400, "DuplicateIdempotencyKey", "The idempotency key was used for another request."
    )


def key_in_use() -> AmazonPayRefusalError:
    """A 409 while the first request with the key still runs; Amazon documents no answer."""
    return AmazonPayRefusalError(
        409, "IdempotencyKeyInUse", "The first request with this key is still under way."
    )


def too_many() -> AmazonPayRefusalError:
    """A 429: nothing was executed."""
    return AmazonPayRefusalError(429, "TooManyRequests", "Too many requests; slow down.")


def broken() -> AmazonPayRefusalError:
    """A 500 that says nothing about what happened."""
    return AmazonPayRefusalError(500, "InternalServerError", "An unknown error occurred.")
