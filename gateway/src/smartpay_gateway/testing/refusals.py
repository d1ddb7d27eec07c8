"""One row per refusal: what is tried, what comes of it, and what would without the defence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from smartpay_gateway.testing.attacks import Act, Place
from smartpay_gateway.testing.lifts import Lift
from smartpay_gateway.testing.mesh import Mesh


@dataclass(frozen=True)
class Row:
    """A refusal with its two controls.

    With everything on, `attack` tells `refused`, and the `honest` call tells `good`. Without
    `lifts`, and nothing else, the attack tells `passes`. Where there are several, they stand
    behind one another: each of them alone keeps the attack from passing. `setting` is what is
    otherwise in this row, whatever is lifted.
    """

    defence: str
    name: str
    attack: Act
    refused: str
    honest: Act
    lifts: tuple[Lift, ...]
    passes: str
    good: str = ""
    setting: tuple[Lift, ...] = ()

    def __str__(self) -> str:
        return f"{self.defence}: {self.name}"

    @property
    def arrives(self) -> bool:
        """Tells whether even the refused attack reaches the service, less what was forged."""
        return self.refused.startswith(("2", "OK"))


class Places:
    """Starts the Envoys a row needs; the last ones are kept for a row that needs the same.

    `own` is the mesh as it is, with every defence on.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._lifts: tuple[Lift, ...] = ()
        self.own = self._place = Place(mesh)

    def attacked(self, row: Row, *lifts: Lift) -> tuple[str, int]:
        """Answers what the attack told, and how many calls then reached a service."""
        place = self._at((*row.setting, *lifts))
        before = self._mesh.payments.calls
        told = row.attack(place)
        return told, self._mesh.payments.calls - before

    def asked(self, row: Row) -> str:
        """Answers what the honest call told, with everything on."""
        return row.honest(self.own)

    def _at(self, lifts: tuple[Lift, ...]) -> Place:
        if not lifts:
            return self.own
        if lifts != self._lifts:
            self.close()
            self._lifts, self._place = lifts, Place(self._mesh, lifts)
        return self._place

    def close(self) -> None:
        """Ends what was started."""
        self._place.close()


class Refusals:
    """The tests of a table: a class of tests inherits them and says its rows and its defences.

    Its file's `conftest.py` gives the tests `row` and `kept` from `rows`.
    """

    rows: ClassVar[tuple[Row, ...]]
    defences: ClassVar[frozenset[str]]

    def test_every_defence_has_a_row(self) -> None:
        """Fails for a defence that was named and never tried."""
        assert {row.defence for row in self.rows} == self.defences

    def test_it_is_refused_where_an_honest_call_passes(self, places: Places, row: Row) -> None:
        """Fails when something gets through, or nothing does."""
        told, arrived = places.attacked(row)
        assert told == row.refused, told
        assert row.arrives or not arrived, f"{arrived} calls arrived"
        honest = places.asked(row)
        assert honest == (row.good or row.passes), honest

    def test_any_one_of_several_defences_is_enough(
        self, places: Places, row: Row, kept: Lift
    ) -> None:
        """Fails for a defence that is none: what it is said to stop passes it."""
        others = [lift for lift in row.lifts if lift is not kept]
        told, arrived = places.attacked(row, *others)
        assert told != row.passes
        assert row.arrives or not arrived, f"{arrived} calls arrived"

    def test_it_passes_without_them(self, places: Places, row: Row) -> None:
        """Fails when something else refuses it: the row names the wrong defence."""
        told, _ = places.attacked(row, *row.lifts)
        assert told == row.passes, told


def in_order(rows: tuple[Row, ...]) -> list[Row]:
    """Puts rows that need the same Envoys next to each other."""
    return sorted(rows, key=lambda row: [str(lift) for lift in (*row.setting, *row.lifts)])


def one_left(rows: tuple[Row, ...]) -> list[tuple[Row, Lift]]:
    """Pairs each row of several defences with each of them, which is then the only one left."""
    pairs = [(row, kept) for row in rows if len(row.lifts) > 1 for kept in row.lifts]
    return sorted(
        pairs, key=lambda pair: [str(lift) for lift in pair[0].lifts if lift is not pair[1]]
    )
