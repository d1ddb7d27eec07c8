"""Reads a file of any length whole: what was cut goes on after its last whole row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from smartpay_client import limits
from smartpay_client._contract import ExportFormat
from smartpay_client.errors import DeadlineExceeded, ServerFault, StreamBroken
from smartpay_client.method import Method
from smartpay_client.plan import Pause, Plan
from smartpay_client.repeating import backoff
from smartpay_client.session import CallOptions, Session, parts_of

# In JSON lines; in CSV it is the first column.
_ID_OF_A_ROW = {"ExportPayments": "paymentId", "ExportLedgerEntries": "entryId"}


class Export:
    """One file, in as many parts as it takes.

    Each part ends with a line that tells how many rows it has; without it the part was cut. These
    lines, and the headers of all parts but the first, are not rows of the file.

    Args:
        session: of the client.
        method: the export.
        options: of the caller; without a deadline the file may take as long as it comes.
        fields: of the request.
    """

    def __init__(
        self,
        session: Session,
        method: Method,
        options: CallOptions,
        fields: Mapping[str, object],
    ) -> None:
        self._session = session
        self._method = method
        self._options = options
        self._fields = dict(fields)
        self._is_csv = fields["format"] == ExportFormat.CSV
        self._needs_header = self._is_csv and not fields["after"]
        self._ends = session.ends(method, options)
        self._in_vain = 0
        self._last = b""
        self._begin()
        self.is_whole = False

    def _begin(self) -> None:
        self._rest = b""
        self._record = b""
        self._rows = 0
        self._is_header_next = self._is_csv

    def open(self) -> Plan[Any]:
        """Asks for what is still missing and answers the opened response."""
        if self._in_vain:
            yield Pause(backoff(self._in_vain, None, self._session.chance()))
        if not self._session.is_bounded(self._options):
            self._ends = self._session.ends(self._method, self._options)
        self._begin()
        parts = parts_of(self._method, self._fields)
        parts["accept"], parts["ends"] = "*/*", self._ends
        return (yield from self._session.open(self._method, self._options, **parts))

    def seconds_left(self) -> float:
        """Answers how long this part may still take."""
        return self._ends - self._session.clock()

    def take(self, piece: bytes) -> Iterator[bytes]:
        """Takes bytes as they came; gives the rows they complete, each with its line's end.

        Raises:
            ServerFault: for what is no row.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._record += line + b"\n"
            if self._is_csv and self._record.count(b'"') % 2:
                continue  # the line's end belongs to a text; RFC 4180 section 2.6
            record, self._record = self._record, b""
            if self._is_row(record):
                yield record

    def ended(self, cause: Exception | None) -> None:
        """Takes the end of a part; the next one is to be opened unless the file is whole.

        Raises:
            DeadlineExceeded: the caller's time is up.
            StreamBroken: part after part brought no row.
        """
        if self.is_whole:
            return
        self._go_on_after_the_last_row()
        remedy = "Ask again."
        if after := self._fields["after"]:
            remedy = f"Ask again with after={after!r}: the rows up to it are whole."
        if self._session.is_bounded(self._options) and self.seconds_left() <= 0:
            raise DeadlineExceeded(
                "The time was up before the file was whole.", remedy=remedy
            ) from cause
        self._in_vain = 1 if self._rows else self._in_vain + 1
        if self._in_vain >= limits.TRIES:
            raise StreamBroken("The file broke off.", status=200, remedy=remedy) from cause

    def _is_row(self, record: bytes) -> bool:
        """Reads one line; false for those that are about the file."""
        if self._is_header_next:
            self._is_header_next = False
            is_first, self._needs_header = self._needs_header, False
            return is_first
        if record.startswith(b"end," if self._is_csv else b'{"end"'):
            self._check_end(record)
            return False
        if self.is_whole:
            raise _unreadable("rows come after its end")
        self._rows += 1
        self._last = record
        return True

    def _check_end(self, record: bytes) -> None:
        try:
            rows = record[4:] if self._is_csv else json.loads(record)["end"]["rows"]
            self.is_whole = int(rows) == self._rows
        except (ValueError, TypeError, KeyError) as error:
            raise _unreadable("its last line can't be read") from error
        if not self.is_whole:
            raise _unreadable(f"it has {int(rows)} rows, and {self._rows} came")

    def _go_on_after_the_last_row(self) -> None:
        if not self._rows:
            return
        if self._is_csv:
            self._fields["after"] = self._last.split(b",", 1)[0].decode()
            return
        try:
            self._fields["after"] = json.loads(self._last)[_ID_OF_A_ROW[self._method.name]]
        except (ValueError, TypeError, KeyError) as error:
            raise _unreadable("its last row has no id") from error


def _unreadable(why: str) -> ServerFault:
    return ServerFault(
        f"The file is not of the documented shape: {why}.",
        status=200,
        reason="ANSWER_UNREADABLE",
        remedy="Check base_url and whether this client is up to date.",
    )
