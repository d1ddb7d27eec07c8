"""The assistant's settings, from environment variables."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from smartpay_chassis.settings import ServiceSettings


class AssistantSettings(ServiceSettings):
    """What the assistant must know beside what every service knows.

    OPENAI_API_KEY and OPENSEARCH_ENDPOINT are reserved for a language model and a search index;
    nothing reads them yet.
    """

    store_path: Path = Field(
        validation_alias="ASSISTANT_STORE_PATH",
        description="SQLite file of the payment index; losing it costs a replay of the events.",
    )
    rows_max: int = Field(
        default=62,
        ge=1,
        validation_alias="ASSISTANT_ROWS_MAX",
        description="Most lines of figures in one answer: a month by day in two currencies.",
    )
    listed_max: int = Field(
        default=20,
        ge=1,
        validation_alias="ASSISTANT_LISTED_MAX",
        description="Most payments in one list: an answer is read, not scrolled.",
    )
    steps_max: int = Field(
        default=8,
        ge=1,
        validation_alias="ASSISTANT_STEPS_MAX",
        description="Most tools one message may call; bounds its work within the deadline.",
    )
    piece_letters: int = Field(
        default=120,
        ge=1,
        validation_alias="ASSISTANT_PIECE_LETTERS",
        description="About one line per streamed piece; smaller pieces cost more than they show.",
    )
