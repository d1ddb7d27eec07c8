"""A world: processors, payers and troubles of a stream of payments, in one YAML file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PAYMENTS_MAX = 1_000_000
"""A stream is held in memory, some 500 bytes a payment."""
ARMS_MAX = 16
MERCHANTS_MAX = 1_000
FILE_BYTES_MAX = 100_000
"""A world is a page of text; a larger file is another file."""

Probability = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Logits = Annotated[float, Field(ge=0, le=5)]


class WorldError(ValueError):
    """A world that cannot be run: names the field, the reason and the remedy."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Fee(_Part):
    """What an arm takes of each payment it charges.

    Attributes:
        basis_points: hundredths of a percent of the amount.
        fixed_minor_units: added to it, in minor units.
    """

    basis_points: int = Field(ge=0, le=10_000, description="a whole number, 290 is 2.9 %")
    fixed_minor_units: int = Field(
        default=0, ge=0, le=10_000, description="a whole number of cents"
    )


class ArmOfWorld(_Part):
    """A processor account that the policies choose among.

    Attributes:
        name: how results call it.
        success: probability of success of the average payment, before drift and outages.
        fee: what it takes; known to all policies.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,30}$", description="lower case, such as alder")
    success: Probability = Field(description="a probability such as 0.93")
    fee: Fee


class Contexts(_Part):
    """How much success depends on what the policies see, in standard deviations of logits.

    Attributes:
        shared: of the effect a feature has on all arms alike: it moves no payment elsewhere.
        own: of the effect on one arm, which is what a contextual policy can use.
        crosses: of each arm's effect per pair of region and method.
        bends: of each arm's effect per pair of merchant type and currency, which no policy is
            given as a feature.
    """

    shared: Logits = Field(default=0.0, description="0 to 5 logits")
    own: Logits = Field(default=0.0, description="0 to 5 logits")
    crosses: Logits = Field(default=0.0, description="0 to 5 logits")
    bends: Logits = Field(default=0.0, description="0 to 5 logits")


class Drift(_Part):
    """How arms change while nobody tells.

    Attributes:
        logits_per_thousand_payments: standard deviation of each arm's random walk.
        exchange_every_payments: arms pass their success rates on in turn so often; 0 is never.
    """

    logits_per_thousand_payments: Logits = Field(default=0.0, description="0 to 5 logits")
    exchange_every_payments: int = Field(default=0, ge=0, le=PAYMENTS_MAX, description="0 is never")


class Outages(_Part):
    """Times in which one arm hardly works; they never overlap, and hit all arms before one again.

    Attributes:
        count: how many, spread over the stream.
        payments: how long each lasts.
        success: the probability of success meanwhile, where the arm was better than that.
        arm: the name of the one that is hit each time; all in turn when left out.
        method: only payments by this method suffer, 0 to 2; all when left out.
        technical_share: of the failures meanwhile, how many are timeouts or errors, not declines.
    """

    count: int = Field(ge=0, le=1_000, description="a whole number; 0 for none")
    payments: int = Field(ge=1, le=PAYMENTS_MAX, description="how long each lasts")
    success: Probability = Field(description="a probability such as 0.2")
    arm: str | None = Field(default=None, description="an arm's name; leave it out for all in turn")
    method: Literal[0, 1, 2] | None = Field(
        default=None, description="0, 1 or 2; leave it out for all"
    )
    technical_share: Share = Field(default=0.0, description="0 to 1")


class Delays(_Part):
    """When outcomes become known.

    Attributes:
        payments: how many payments later.
        lost_share: of outcomes that never come.
    """

    payments: int = Field(default=0, ge=0, le=100_000, description="0 is at once")
    lost_share: Share = Field(default=0.0, description="0 to 1")


class Merchants(_Part):
    """Several merchants that share the arms' processors, each with accounts of its own.

    Attributes:
        count: how many.
        zipf: the n-th merchant brings n^-zipf as many payments as the first.
        own: standard deviation, in logits, of what is special about one merchant's account.
    """

    count: int = Field(default=1, ge=1, le=MERCHANTS_MAX, description="a whole number from 1")
    zipf: float = Field(default=1.0, ge=0, le=5, description="0 is all alike")
    own: Logits = Field(default=0.0, description="0 to 5 logits")


class World(_Part):
    """Everything a stream is drawn from, but for the seed.

    Attributes:
        about: what happens in it, a sentence.
        payments: how many a stream has.
        payments_per_hour: on average, at random moments (Poisson).
        median_minor_units: of the amounts, which are log-normal.
        spread: standard deviation of the natural logarithm of the amounts.
        jitter: standard deviation, in logits, by which a seed moves each arm's success.
        technical_share: of the failures of a healthy arm.
        arms: in the merchant's static order; the first is the baseline.
        contexts: what success depends on.
        drift: what changes.
        outages: what breaks; several kinds may be listed, which may meet.
        delays: when outcomes come.
        merchants: who is paid.
    """

    about: str = Field(min_length=1, max_length=1_000, description="say what happens in it")
    payments: int = Field(ge=1, le=PAYMENTS_MAX, description="6000 is customary")
    payments_per_hour: float = Field(gt=0, le=100_000_000, description="60 is one a minute")
    median_minor_units: int = Field(
        default=6_000, ge=1, le=100_000_000, description="cents, such as 6000"
    )
    spread: float = Field(default=1.0, ge=0, le=5, description="0 makes all amounts equal")
    jitter: Logits = Field(default=0.0, description="0 to 5 logits")
    technical_share: Share = Field(default=0.0, description="0 to 1")
    arms: tuple[ArmOfWorld, ...] = Field(
        min_length=2, max_length=ARMS_MAX, description="list at least two"
    )
    contexts: Contexts = Contexts()
    drift: Drift = Drift()
    outages: tuple[Outages, ...] = Field(
        default=(), max_length=10, description="a list, or nothing"
    )
    delays: Delays = Delays()
    merchants: Merchants = Merchants()

    @model_validator(mode="after")
    def _fits(self) -> World:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError("two arms have one name; name each arm once")
        for kind in self.outages:
            if kind.count * kind.payments > self.payments:
                raise ValueError(
                    "outages of one kind take longer than the stream; lower count or payments"
                )
            if kind.arm is not None and kind.arm not in names:
                raise ValueError(f"no arm is called {kind.arm}; write one of " + ", ".join(names))
        return self


def packaged() -> tuple[str, ...]:
    """Names the worlds that come with the package."""
    folder = resources.files("smartpay_router") / "worlds"
    return tuple(
        sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
    )


def load(world: str) -> World:
    """Reads a world by the name of a packaged one, or by the path of a file.

    Raises:
        WorldError: when there is no such world, or it says something that cannot be.
    """
    if world in packaged():
        text = (resources.files("smartpay_router") / "worlds" / f"{world}.yaml").read_text("utf-8")
        return parse(text)
    path = Path(world)
    if not path.is_file():
        raise WorldError(
            f"world: there is no {world!r}; give the path of a YAML file, or one of "
            + ", ".join(packaged())
        )
    if path.stat().st_size > FILE_BYTES_MAX:
        raise WorldError(f"world: {world!r} has more than {FILE_BYTES_MAX} bytes; shorten it")
    try:
        return parse(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise WorldError(f"world: {world!r} is not UTF-8 text; save it as UTF-8") from error


def parse(text: str) -> World:
    """Reads a world out of YAML text.

    Raises:
        WorldError: with a line per mistake: the field, what is wrong, and what to write.
    """
    try:
        told = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WorldError(f"world: this is not YAML ({error}); mind indents and colons") from error
    if not isinstance(told, dict):
        raise WorldError("world: a mapping is expected; begin with a line `about: ...`")
    try:
        return World.model_validate(told)
    except ValidationError as error:
        lines = [
            _line(tuple(mistake["loc"]), mistake["type"], mistake["msg"])
            for mistake in error.errors(include_url=False)
        ]
        raise WorldError("\n".join(lines)) from error


def _line(location: tuple[int | str, ...], kind: str, message: str) -> str:
    field = ".".join(str(step) for step in location) or "world"
    reason = message.removeprefix("Value error, ")
    model: type[BaseModel] = World
    remedy = ""
    for step in location:
        if isinstance(step, int):
            continue
        if step not in model.model_fields:
            known = ", ".join(model.model_fields)
            return f"{field}: there is no such field; remove it, or write one of {known}"
        found = model.model_fields[step]
        remedy = found.description or ""
        model = _PARTS.get(step, model)
    if kind == "missing":
        reason = "is missing"
    return f"{field}: {reason}" + (f"; write {remedy}" if remedy else "")


_PARTS: dict[str, type[BaseModel]] = {
    "arms": ArmOfWorld,
    "fee": Fee,
    "contexts": Contexts,
    "drift": Drift,
    "outages": Outages,
    "delays": Delays,
    "merchants": Merchants,
}
