"""The closed vocabulary of questions, and how a text is read with it.

Every word must be known. A word that is not known might change what a figure means ("net",
"except", "Germany"), so an unknown word refuses the question; it is never skipped.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from smartpay_assistant.domain.amounts import CURRENCIES
from smartpay_assistant.domain.metrics import Dimension, Metric


class Sense(Enum):
    """What a word or phrase contributes to a question."""

    METRIC = auto()
    HOW_MUCH = auto()
    HOW_MANY = auto()
    TAKEN = auto()  # active voice: needs "I" or "we" to mean the merchant's own takings
    CAPTURED = auto()
    REFUNDED = auto()
    STATUS = auto()
    PROCESSOR = auto()
    ACCOUNT = auto()
    CURRENCY = auto()
    SPLIT = auto()
    DAILY = auto()
    PERIOD = auto()
    LATEST = auto()
    NUMBER = auto()
    LIST = auto()
    SHOW = auto()
    WHY = auto()
    PAYMENT_ID = auto()
    PAYMENT = auto()
    PAYMENTS = auto()
    SELF = auto()
    HELP = auto()
    COMPARE = auto()
    BREAK = auto()
    FILLER = auto()


class Word(NamedTuple):
    """One understood phrase: its sense, its meaning, and the text it was read from."""

    sense: Sense
    meaning: str
    text: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A question as understood: its phrases in order, and the words that are not known."""

    words: tuple[Word, ...]
    unknown: tuple[str, ...]


_DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_NUMBER_WORDS = {
    **{"one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7"},
    **{"eight": "8", "nine": "9", "ten": "10", "twelve": "12", "fourteen": "14", "twenty": "20"},
    **{"thirty": "30", "sixty": "60", "ninety": "90"},
}
_COUNTED = rf"(?:[0-9]+|{'|'.join(_NUMBER_WORDS)})"
_PAID = r"(?:payments?|transactions?)"
_THROUGH = r"(?:by |through |via |with |on |at )?"
_SPLIT_NAMES: dict[str, str] = {
    "processor accounts?": Dimension.PROCESSOR_ACCOUNT,
    "accounts?": Dimension.PROCESSOR_ACCOUNT,
    "payment processors?": Dimension.PROCESSOR,
    "processors?": Dimension.PROCESSOR,
    "providers?": Dimension.PROCESSOR,
    "currency|currencies": Dimension.CURRENCY,
    "status(?:es)?|outcomes?": Dimension.STATUS,
    "days?|dates?": "day",
}
_BY = r"(?:by|per|for each|for every|split by|broken down by|grouped by|in each|on each)"
_CURRENCY_NAMES = {
    "(?:us )?dollars?": "USD",
    "euros?": "EUR",
    "(?:british )?pounds?": "GBP",
    "yen": "JPY",
}

# The longest match wins, so a phrase may begin with another one.
_LEXICON: tuple[tuple[Sense, str, str], ...] = (
    (
        Sense.METRIC,
        Metric.APPROVAL_RATE,
        r"(?:approval|acceptance|success|authori[sz]ation|auth) rates?"
        rf"|(?:percentage|percent|share) of (?:my |our |all )?{_PAID}"
        r" (?:is|are|was|were|got) (?:approved|accepted)",
    ),
    (
        Sense.METRIC,
        Metric.AVERAGE,
        rf"(?:average|avg|mean)(?: captured)?(?: {_PAID}| amount| sale| ticket| order value)?"
        r"(?: amount| size| value)?|aov",
    ),
    (
        Sense.METRIC,
        Metric.VOLUME,
        r"(?:captured |payment |sales |total )?volume|turnover|revenue|gross|sales|takings"
        r"|captured amount|total captured|(?:amount|money) (?:was )?captured",
    ),
    (
        Sense.METRIC,
        Metric.FRAUD_BLOCKS,
        r"fraud blocks?|blocks? by fraud",
    ),
    (Sense.METRIC, Metric.REFUNDS_COUNT, r"refunds? count|number of (?:my |our )?refunds"),
    (
        Sense.METRIC,
        Metric.REFUNDS_AMOUNT,
        r"refund(?:ed|s)? (?:amount|volume|total)|amount (?:of (?:my |our )?refunds|refunded)",
    ),
    (
        Sense.REFUNDED,
        "",
        r"refunded|refunds|(?:gave|given|give|giving|paid) back|(?:did|do) (?:i|we) refund",
    ),
    (Sense.HOW_MUCH, "", r"how much|total|what did|amount"),
    (
        Sense.HOW_MANY,
        "",
        rf"how many|(?:total )?number of|count|{_PAID} counts?|count of payments",
    ),
    (
        Sense.TAKEN,
        "",
        r"take|took|taken|taking|make|made|earn|earned|collect|collected|receive|received"
        r"|charged|processed|process",
    ),
    (Sense.CAPTURED, "", r"captured"),
    (
        Sense.STATUS,
        "succeeded",
        r"succeeded|succeed|successful|successfully|completed",
    ),
    (
        Sense.STATUS,
        "failed",
        r"failed|fail|failing|failures?|declined|declines|unsuccessful|rejected",
    ),
    (
        Sense.STATUS,
        "blocked",
        r"blocked(?: by (?:the )?fraud(?: service| check)?)?|fraud[- ]blocked"
        r"|(?:stopped|refused) by (?:the )?fraud(?: service| check)?",
    ),
    (Sense.STATUS, "canceled", r"cancell?ed"),
    (
        Sense.STATUS,
        "requires_capture",
        r"authori[sz]ed(?: but not captured)?|uncaptured"
        r"|(?:waiting for|awaiting|requires?) capture",
    ),
    (
        Sense.STATUS,
        "requires_action",
        r"(?:waiting for|awaiting) (?:the )?payer|(?:requires?|needs?) action",
    ),
    (Sense.STATUS, "requires_confirmation", r"(?:requires?|needs?) confirmation"),
    (Sense.STATUS, "in_review", r"in review"),
    (Sense.STATUS, "needs_review", r"needs? review"),
    (Sense.STATUS, "processing", r"processing"),
    (Sense.STATUS, "unknown", r"unknown(?: status| outcome)?"),
    (Sense.PROCESSOR, "stripe", rf"{_THROUGH}stripe"),
    (Sense.PROCESSOR, "amazon_pay", rf"{_THROUGH}amazon ?pay"),
    (Sense.PROCESSOR, "solana", rf"{_THROUGH}solana"),
    (Sense.DAILY, "", r"daily|day by day"),
    (Sense.PERIOD, "today", r"today"),
    (Sense.PERIOD, "yesterday", r"yesterday"),
    (Sense.PERIOD, "this week", r"this week"),
    (Sense.PERIOD, "last week", r"(?:last|previous|past) week"),
    (Sense.PERIOD, "this month", r"this month|month to date"),
    (Sense.PERIOD, "last month", r"(?:last|previous) month"),
    (Sense.PERIOD, "this year", r"this year|year to date"),
    (Sense.PERIOD, "last year", r"(?:last|previous) year"),
    (Sense.PERIOD, "all time", r"all time|so far|ever"),
    (Sense.PERIOD, "last {} days", rf"(?:last|past|previous) {_COUNTED} days?"),
    (Sense.PERIOD, "last {} weeks", rf"(?:last|past|previous) {_COUNTED} weeks?"),
    (
        Sense.PERIOD,
        "between",
        rf"(?:from |between )?{_DATE} (?:to|until|till|and|through) {_DATE}",
    ),
    (Sense.PERIOD, "since", rf"(?:since|from|starting) {_DATE}"),
    (Sense.PERIOD, "on", _DATE),
    (
        Sense.LATEST,
        "",
        rf"{_COUNTED} (?:last|latest|newest|most recent|recent)"
        rf"|(?:last|latest|newest|most recent|recent)(?: {_COUNTED})?",
    ),
    (Sense.NUMBER, "", _COUNTED),
    (Sense.LIST, "", r"list|which|display"),
    (Sense.SHOW, "", r"show(?: me)?|give me|let me see"),
    (
        Sense.WHY,
        "",
        r"why|explain|what happened(?: to| with)?|reasons?|details|status of|tell me about"
        r"|decision|routed|route",
    ),
    (
        Sense.HELP,
        "",
        r"help|what can (?:you|i) (?:do|tell me|answer|ask)(?: you)?"
        r"|(?:what|which) (?:metrics|figures)(?: (?:do|can) you (?:know|have|answer))?"
        r"|(?:who|what) are you|are you (?:an? )?(?:ai|llm|language model|robot|bot|human)"
        r"|how (?:is|do you) (?:the |my )?(?:approval rate|volume|average)"
        r" (?:defined|calculated|computed|measured)",
    ),
    (Sense.PAYMENT, "", r"payment|transaction"),
    (Sense.PAYMENTS, "", r"payments|transactions"),
    (Sense.SELF, "", r"i|we|i've|we've"),
    (Sense.COMPARE, "", r"compare|compared (?:to|with)|with|versus|vs|against"),
    (
        Sense.FILLER,
        "",
        r"please|hi|hello|hey|thanks|thank you|(?:can|could|would|will) you|tell me"
        r"|i (?:want|would like) to (?:know|see)|overall|altogether|in total|in all|all|the|an?"
        r"|my|our|me|of|for|in|on|at|over|during|from|and|also|then|what|how|what's|how's|is|are"
        r"|was|were|be|been|did|do|does|have|has|had|there|that|money|cash|business|utc",
    ),
)

_PUNCTUATION = re.compile(r"[\s:()\"]+")
_BREAK = re.compile(
    r"[.?!;]+(?=\s|$)|(?:,|\band\b|\bthen\b|\balso\b)(?:\s+and)?\s+"
    r"(?=(?:how|what|what's|which|why|list|show|explain)\b)"
)
_PAYMENT_ID = re.compile(r"pay_[a-z][0-9][0-9a-hjkmnp-tv-z]{24}(?![\w])")
_ACCOUNT_ID = re.compile(r"pac_[a-z][0-9][0-9a-hjkmnp-tv-z]{24}(?![\w])")
_CAPITALS = re.compile(r"(?:in |only )?([A-Z]{3,4})(?![\w])")
# "in the US", "in IT": a country must not be read as the filler it looks like.
_COUNTRY = re.compile(r"[A-Z]{2}(?![\w])")
_ANY_WORD = re.compile(r"[^\s,:()\"]+")
_SPLIT_ANY = "|".join(_SPLIT_NAMES)
_SPLIT = re.compile(
    rf"{_BY} (?:the )?(?:{_SPLIT_ANY})(?:(?:,? and|,)(?: by| per)? (?:{_SPLIT_ANY}))*(?![\w])"
)


def _phrases() -> Iterator[tuple[Sense, str, re.Pattern[str]]]:
    for sense, meaning, pattern in _LEXICON:
        yield sense, meaning, re.compile(rf"(?:{pattern})(?![\w'])")
    for pattern, code in _CURRENCY_NAMES.items():
        yield Sense.CURRENCY, code, re.compile(rf"(?:{pattern})(?![\w'])")


_COMPILED = tuple(_phrases())


def read(question: str) -> Reading:
    """Reads a question phrase by phrase, the longest known phrase first."""
    text = unicodedata.normalize("NFKC", question).replace("\u2019", "'")  # the curly apostrophe
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\b([Tt]oday|[Yy]esterday)'s\b", r"\1", text)
    folded = text.lower()
    if len(folded) != len(text):  # a letter that changes length when folded is in no phrase
        return Reading((), (text,))
    codes = not text.isupper()  # in a shouted question capitals say nothing
    words: list[Word] = []
    unknown: list[str] = []
    position = 0
    while position < len(text):
        if gap := _BREAK.match(folded, position):
            words.append(Word(Sense.BREAK, "", gap.group()))
            position = gap.end()
        elif text[position] == ",":
            words.append(Word(Sense.FILLER, "", ","))
            position += 1
        elif gap := _PUNCTUATION.match(text, position):
            position = gap.end()
        elif not (codes and _COUNTRY.match(text, position)) and (
            found := _longest(text, folded, position)
        ):
            words.extend(found)
            position += len(found[0].text)
        else:
            stranger = _ANY_WORD.match(text, position)
            assert stranger is not None  # neither gap nor end: something stands here
            unknown.append(stranger.group().rstrip(".?!;"))
            position = stranger.end()
    return Reading(tuple(words), tuple(unknown))


def number_in(text: str) -> int | None:
    """Reads the one number in a phrase, in figures or words; None when there is none."""
    for part in text.split():
        figure = _NUMBER_WORDS.get(part, part)
        if figure.isascii() and figure.isdigit():
            return int(figure)
    return None


def dates_in(text: str) -> list[str]:
    """Finds the ISO dates in a phrase; whether they exist is for the reader to check."""
    return re.findall(_DATE, text)


def _longest(text: str, folded: str, position: int) -> list[Word]:
    for sense, pattern in ((Sense.PAYMENT_ID, _PAYMENT_ID), (Sense.ACCOUNT, _ACCOUNT_ID)):
        if hit := pattern.match(text, position):
            return [Word(sense, hit.group(), hit.group())]
    if (hit := _CAPITALS.match(text, position)) and (
        hit.group() != "ALL" and hit.group(1) in CURRENCIES  # "ALL" alone is emphasis, not lek
    ):
        return [Word(Sense.CURRENCY, hit.group(1), hit.group())]
    if hit := _SPLIT.match(folded, position):
        return [Word(Sense.SPLIT, name, hit.group()) for name in _split_names(hit.group())]
    best: Word | None = None
    for sense, meaning, pattern in _COMPILED:
        hit = pattern.match(folded, position)
        if hit and hit.group() and (best is None or len(hit.group()) > len(best.text)):
            best = Word(sense, meaning, hit.group())
    return [best] if best else []


def _split_names(phrase: str) -> Iterator[str]:
    rest = re.sub(rf"^{_BY} (?:the )?", "", phrase)
    for part in re.split(r"(?:,? and|,)(?: by| per)? ", rest):
        for pattern, name in _SPLIT_NAMES.items():
            if re.fullmatch(pattern, part):
                yield name
