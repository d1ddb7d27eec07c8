"""Logs: one JSON line per event on standard error, without secrets, tokens or bodies."""

from __future__ import annotations

import logging
import sys

import structlog

_LEVELS = logging.getLevelNamesMapping()


def configure_logging(service: str, level: str, debug: str) -> None:
    """Sets up structlog for the process.

    Args:
        service: the service's name, on every line.
        level: least severe level, for instance INFO.
        debug: comma list of smartpay:<service> or smartpay:*; these log at DEBUG.
    """
    wanted = {part.strip() for part in debug.split(",")}
    least = _LEVELS.get(level.upper(), logging.INFO)
    if {"smartpay:*", f"smartpay:{service}"} & wanted:
        least = logging.DEBUG

    def name_service(
        _: object, __: str, line: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        line["service"] = service
        return line

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            name_service,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Without local variables: they hold tokens, secrets and people's data.
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
