"""What callers may give in an easier form than the contract's, and the contract's form of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias, TypeVar

from smartpay_client._contract import (
    AmazonPayCredentials,
    Instrument,
    ProcessorCredentials,
    ProcessorToken,
    SolanaCredentials,
    StripeCredentials,
)
from smartpay_client.words import Word

W = TypeVar("W", bound=Word)

Words: TypeAlias = W | str | Iterable[W | str]
AnyInstrument: TypeAlias = Instrument | Mapping[str, str]
AnyCredentials: TypeAlias = StripeCredentials | AmazonPayCredentials | SolanaCredentials


def word(kind: type[W], value: W | str | None) -> W | None:
    """Takes a word or its text."""
    return None if value is None else kind(value)


def words(kind: type[W], values: Words[W] | None) -> tuple[W, ...] | None:
    """Takes one word or several, or their texts."""
    if values is None:
        return None
    return (kind(values),) if isinstance(values, str) else tuple(kind(each) for each in values)


def pairs(values: Mapping[str, str] | None) -> list[str] | None:
    """Spells pairs as filters do."""
    return None if values is None else [f"{name}={value}" for name, value in values.items()]


def as_instrument(value: AnyInstrument | None) -> Instrument | None:
    """Takes an instrument in its short form as well: token by processor account."""
    if value is None or isinstance(value, Instrument):
        return value
    return Instrument(tuple(ProcessorToken(account, token) for account, token in value.items()))


def as_credentials(value: AnyCredentials | None) -> ProcessorCredentials | None:
    """Says of which processor credentials are."""
    match value:
        case StripeCredentials():
            return ProcessorCredentials(stripe=value)
        case AmazonPayCredentials():
            return ProcessorCredentials(amazon_pay=value)
        case SolanaCredentials():
            return ProcessorCredentials(solana=value)
    return None
