"""Reads anybody's payments from a Parquet or CSV file into a stream, or says exactly why not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from smartpay_fraud.training.stream import (
    ABSENT,
    LABEL_DELAY_MS,
    NEVER,
    Flags,
    Ints,
    Stream,
    TableError,
)

REQUIRED = ("transaction_id", "timestamp", "customer_id", "terminal_id", "amount", "is_fraud")
OPTIONAL = {
    "merchant_id": "merchant",
    "card_id": "card",
    "device_id": "device",
    "ip_address": "network",
    "currency": "currency",
    "merchant_category": "category",
    "country": "country",
}
"""Optional columns and the stream's names for them; `known_at` is read besides."""

AMOUNT_MAX = 10**12
"""Major units; more is a mistaken column, and minor units must stay exact in 64 bits."""

# Digits after the point where ISO 4217 has not two; the two tokens by their own definition.
_DIGITS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"), 0),
    **dict.fromkeys(("RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    "USDC": 6,
    "SOL": 9,
}
_CENT_NOISE = 1e-6  # of a minor unit: what a decimal amount loses by being stored as a float
# An epoch's unit by its size: seconds, milliseconds, microseconds, else nanoseconds.
_EPOCHS = ((1e11, 1000.0), (1e14, 1.0), (1e17, 1e-3), (float("inf"), 1e-6))


@dataclass(frozen=True)
class Reading:
    """What a file held.

    Attributes:
        stream: its payments in order of time.
        rounded: amounts that had more digits than their currency and were rounded, half to even.
    """

    stream: Stream
    rounded: int


def read(path: Path) -> Reading:
    """Reads a table with the columns REQUIRED and any of OPTIONAL; others are left alone.

    Amounts are decimal major units. Times are ISO 8601 text, timestamps or epochs; without a zone
    they count as UTC. Ids may be numbers or text.

    Raises:
        TableError: a column is missing or a value can't be used.
    """
    table = _open(path)
    missing = [name for name in REQUIRED if name not in table.column_names]
    if missing:
        raise TableError(
            f"{path.name}: there is no column {', '.join(missing)}; "
            f"the required columns are {', '.join(REQUIRED)}."
        )
    if not table.num_rows:
        raise TableError(f"{path.name}: there are no rows; give a table with payments.")
    for name in REQUIRED:
        if table[name].null_count:
            row = int(np.flatnonzero(table[name].is_null().to_numpy())[0])
            _refuse(name, row, "is missing", "give every payment a value")
    _unique(table["transaction_id"])
    columns = {
        name: _codes(table[column], column)
        for column, name in OPTIONAL.items()
        if column in table.column_names
    }
    time_ms = _times(table["timestamp"], "timestamp")
    fraud = _flags(table["is_fraud"])
    minor, rounded = _minor_units(table["amount"], columns.get("currency"))
    known = np.where(fraud, time_ms + LABEL_DELAY_MS, NEVER)
    if "known_at" in table.column_names:
        given = table["known_at"]
        said = ~given.is_null().to_numpy()
        if said.any():
            at = _times(given.filter(pa.array(said)), "known_at", np.flatnonzero(said))
            known[said] = np.maximum(at, time_ms[said])
    customer, customer_names = _codes(table["customer_id"], "customer_id")
    terminal, terminal_names = _codes(table["terminal_id"], "terminal_id")
    order = np.argsort(time_ms, kind="stable")
    stream = Stream(
        time_ms=time_ms[order],
        amount_minor=minor[order],
        fraud=fraud[order],
        known_ms=known[order],
        customer=customer[order],
        terminal=terminal[order],
        codes={name: codes[order] for name, (codes, _) in columns.items()},
        names={
            "customer": customer_names,
            "terminal": terminal_names,
            **{name: names for name, (_, names) in columns.items()},
        },
    )
    return Reading(stream, rounded)


def _open(path: Path) -> pa.Table:
    wanted = (*REQUIRED, *OPTIONAL, "known_at")
    try:
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        if parquet:
            there = pyarrow.parquet.read_schema(path).names
            table = pyarrow.parquet.read_table(path, columns=[n for n in wanted if n in there])
        else:
            # Everything as text, so that ids keep their zeros and amounts their digits.
            options = pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()),
                strings_can_be_null=True,
                null_values=["", "NA", "NaN", "nan", "null", "NULL", "None"],
            )
            table = pyarrow.csv.read_csv(path, convert_options=options)
            table = table.select([n for n in wanted if n in table.column_names])
    except OSError as error:
        raise TableError(f"{path}: can't be opened; give a readable file.") from error
    except pa.ArrowException as error:
        raise TableError(
            f"{path.name}: neither Parquet nor CSV with a header line ({error}); convert it."
        ) from error
    return table.combine_chunks()


def _refuse(column: str, row: int, reason: str, remedy: str) -> NoReturn:
    raise TableError(f"{column}, row {row + 1}: {reason}; {remedy}.")


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    """Values as text, so that 17, 17.0 and "17" are one id."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_floating(kind):
        return [None if v is None or v != v else f"{v:.15g}" for v in column.to_pylist()]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [None if v is None else v.strip() for v in column.to_pylist()]
    return [None if v is None else str(v) for v in column.to_pylist()]


def _codes(column: pa.ChunkedArray, name: str) -> tuple[Ints, Sequence[str]]:
    """Numbers the distinct values in order of appearance; a missing or empty one is ABSENT."""
    kind = column.type
    if pa.types.is_integer(kind):
        # The usual case, without a text per row.
        encoded = column.combine_chunks().dictionary_encode()
        names = [str(v) for v in encoded.dictionary.to_pylist()]
        codes = encoded.indices.fill_null(ABSENT).to_numpy().astype(np.int64)
    else:
        numbers: dict[str, int] = {}
        codes = np.array(
            [numbers.setdefault(t, len(numbers)) if t else ABSENT for t in _texts(column)],
            np.int64,
        )
        names = list(numbers)
    if name in REQUIRED and (codes == ABSENT).any():
        _refuse(name, int(np.argmin(codes)), "is empty", "give every payment a value")
    if name == "merchant_category":
        names = [text.zfill(4) for text in names]  # ISO 18245: as a number it loses its zeros
    if name in ("country", "currency"):
        names = [text.upper() for text in names]
    return codes, names


def _unique(column: pa.ChunkedArray) -> None:
    if pc.count_distinct(column).as_py() == len(column):
        return
    seen: set[Any] = set()
    for row, value in enumerate(column.to_pylist()):
        if value in seen:
            _refuse("transaction_id", row, f"{value!r} stands twice", "give each payment its own")
        seen.add(value)


def _times(column: pa.ChunkedArray, name: str, rows: Ints | None = None) -> Ints:
    """Milliseconds since the epoch, int64; `rows` are the file's rows when not all are given."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        moments = column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
        return np.asarray(moments.to_numpy(), np.int64)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _epochs(column.cast(pa.float64(), safe=False).to_numpy(), name, rows)
    texts = _texts(column)
    number = re.compile(r"[-+]?\d+(\.\d+)?")
    if all(number.fullmatch(text or "") for text in texts):
        return _epochs(np.array(texts, np.float64), name, rows)
    return np.array(_each(texts, name, rows, _moment, "is no time", "use ISO 8601"), np.int64)


def _epochs(values: NDArray[np.float64], name: str, rows: Ints | None) -> Ints:
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        _refuse(name, row if rows is None else int(rows[row]), "is no time", "give an epoch")
    largest = float(np.abs(values).max(initial=0))
    scale = next(scale for limit, scale in _EPOCHS if largest < limit)
    return np.asarray(np.floor(values * scale), np.int64)


def _moment(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    whole = int(moment.replace(microsecond=0).timestamp())
    return whole * 1000 + moment.microsecond // 1000


def _each(
    texts: list[str | None],
    name: str,
    rows: Ints | None,
    turn: Callable[[str], int],
    reason: str,
    remedy: str,
) -> list[int]:
    turned = []
    for row, text in enumerate(texts):
        try:
            turned.append(turn(text or ""))
        except (ValueError, InvalidOperation, OverflowError):
            where = row if rows is None else int(rows[row])
            _refuse(name, where, f"{text!r} {reason}", remedy)
    return turned


def _flags(column: pa.ChunkedArray) -> Flags:
    kind = column.type
    if pa.types.is_boolean(kind):
        return np.asarray(column.to_numpy(), np.bool_)
    words = {"0": 0, "1": 1, "false": 0, "true": 1}
    texts = [(text or "").lower() for text in _texts(column)]
    for row, text in enumerate(texts):
        if text not in words:
            _refuse("is_fraud", row, f"{text!r} is neither 0 nor 1", "use 0 or 1")
    return np.array([words[text] for text in texts], np.bool_)


def _minor_units(
    column: pa.ChunkedArray, currency: tuple[Ints, Sequence[str]] | None
) -> tuple[Ints, int]:
    """Whole minor units of each payment's currency, and how many amounts had to be rounded."""
    if currency is None:
        digits = np.full(len(column), 2, np.int64)
    else:
        codes, names = currency
        by_code = np.array([_DIGITS.get(name, 2) for name in names] + [2], np.int64)
        digits = by_code[codes]  # ABSENT is -1: the last entry
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        amounts = column.cast(pa.float64(), safe=False).to_numpy()
        bad = ~(np.isfinite(amounts) & (amounts >= 0) & (amounts <= AMOUNT_MAX))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            _refuse_amount(row, amounts[row])
        exact = amounts * 10.0**digits
        minor = np.rint(exact)
        rounded = int((np.abs(exact - minor) > _CENT_NOISE + np.abs(exact) * 1e-12).sum())
        return minor.astype(np.int64), rounded
    minor_list, rounded = [], 0
    for row, (text, places) in enumerate(zip(_texts(column), digits.tolist(), strict=True)):
        try:
            amount = Decimal(text or "")
        except InvalidOperation:
            _refuse_amount(row, text)
        if not amount.is_finite() or not 0 <= amount <= AMOUNT_MAX:
            _refuse_amount(row, text)
        shifted = amount.scaleb(places)
        whole = int(shifted.to_integral_value())
        rounded += shifted != whole
        minor_list.append(whole)
    return np.array(minor_list, np.int64), rounded


def _refuse_amount(row: int, value: object) -> NoReturn:
    _refuse(
        "amount",
        row,
        f"{str(value)!r} is not an amount from 0 to {AMOUNT_MAX:,}",
        "use decimal major units with a point, such as 12.50",
    )
