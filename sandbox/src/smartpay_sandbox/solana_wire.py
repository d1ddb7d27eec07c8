"""What a JSON-RPC caller of the sandbox's Solana node sends, read strictly.

Every reader raises RpcError with INVALID_PARAMS when the value cannot be understood; texts follow a
validator's where a client may look at them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from smartpay_sandbox.solana_views import Json, base58_bytes

PACKET_BYTES_MAX = 1232  # PACKET_DATA_SIZE: IPv6's smallest MTU less headers

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
PREFLIGHT_FAILURE, SIGNATURE_VERIFICATION_FAILURE = -32002, -32003
NODE_UNHEALTHY, UNSUPPORTED_TRANSACTION_VERSION = -32005, -32015


class RpcError(Exception):
    """A JSON-RPC refusal: `code` and `data` as a validator gives them."""

    def __init__(self, code: int, message: str, data: Json = None) -> None:
        super().__init__(message)
        self.body: dict[str, Any] = {"code": code, "message": message}
        if data is not None:
            self.body["data"] = data


class Params:
    """Reads one call's positional parameters and trailing options; refuses what is missing."""

    def __init__(self, values: Json) -> None:
        if not isinstance(values, list):
            raise RpcError(INVALID_PARAMS, "`params` should be an array")
        self._values = values

    def at(self, index: int, kind: type) -> Json:
        """Return the parameter at a position, which must be of this JSON type."""
        if index >= len(self._values):
            need = f"`params` should have at least {index + 1} argument(s)"
            raise RpcError(INVALID_PARAMS, need)
        value = self._values[index]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise RpcError(INVALID_PARAMS, f"Invalid params: argument {index} has the wrong type")
        return value

    def address(self, index: int) -> Pubkey:
        """Return the parameter at a position as an address."""
        return address_of(self.at(index, str))

    def options(self, index: int) -> dict[str, Any]:
        """Return the options object at a position, empty when left out."""
        if index >= len(self._values) or self._values[index] is None:
            return {}
        options: dict[str, Any] = self.at(index, dict)
        return options


def commitment_of(options: Mapping[str, Any]) -> str:
    """Return the asked commitment; a validator's default is finalized."""
    commitment = options.get("commitment") or "finalized"
    if commitment not in ("processed", "confirmed", "finalized"):
        raise RpcError(INVALID_PARAMS, "commitment: use processed, confirmed or finalized")
    return str(commitment)


def at_least_confirmed(options: Mapping[str, Any]) -> None:
    """Refuse to read history at processed, as a validator does."""
    if commitment_of(options) == "processed":
        raise RpcError(INVALID_PARAMS, "Method does not support commitment below `confirmed`")


def address_of(text: Json) -> Pubkey:
    """Read an address."""
    try:
        return Pubkey.from_string(text)
    except (ValueError, TypeError) as error:
        raise RpcError(INVALID_PARAMS, "Invalid param: Invalid address") from error


def signature_of(text: Json) -> str:
    """Read a transaction signature and return its one spelling."""
    try:
        return str(Signature.from_string(text))
    except (ValueError, TypeError) as error:
        raise RpcError(INVALID_PARAMS, "Invalid param: Invalid signature") from error


def data_slice_of(value: Json) -> dict[str, int]:
    """Read the part of an account's data that was asked for."""
    if not isinstance(value, dict) or not all(
        isinstance(value.get(name), int) and value[name] >= 0 for name in ("offset", "length")
    ):
        raise RpcError(INVALID_PARAMS, "dataSlice: give offset and length, both from 0")
    return value


def decode(text: str, encoding: str) -> bytes:
    """Read bytes in base58 or base64."""
    try:
        if encoding == "base58":
            return base58_bytes(text)
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise RpcError(INVALID_PARAMS, f"invalid {encoding} encoding") from error


def transaction_of(text: str, options: Mapping[str, Any]) -> VersionedTransaction:
    """Decode and check a transaction's form; base58 is the wire's old default."""
    encoding = options.get("encoding", "base58")
    if encoding not in ("base58", "base64"):
        raise RpcError(INVALID_PARAMS, "encoding: use base64 or base58")
    raw = decode(text, encoding)
    if len(raw) > PACKET_BYTES_MAX:
        problem = (
            f"decoded solana_transaction::versioned::VersionedTransaction too large: {len(raw)} "
            f"bytes (max: {PACKET_BYTES_MAX} bytes)"
        )
        raise RpcError(INVALID_PARAMS, problem)
    try:
        transaction = VersionedTransaction.from_bytes(raw)
        transaction.sanitize()
    except Exception as error:  # solders raises several unrelated types here
        raise RpcError(INVALID_PARAMS, "failed to deserialize the transaction") from error
    return transaction
