"""The embedded store of lists, rules and policies; the rulebook in memory follows it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from smartpay_chassis.sqlite import SqliteStore
from smartpay_fraud.adapters.sqlite_audit import insert_record
from smartpay_fraud.domain.audit import AuditRecord
from smartpay_fraud.domain.lists import ENTRIES_MAX, LISTS_MAX, Entry, Kind, Listing, ScreeningList
from smartpay_fraud.domain.refusals import (
    etag_mismatch,
    limit_reached,
    list_exists,
    list_in_use,
    list_not_found,
    rules_changed,
)
from smartpay_fraud.domain.rulebook import Rulebook
from smartpay_fraud.domain.rules import (
    DEFAULT_RULES,
    Condition,
    Operator,
    Rule,
    RuleSet,
    lists_asked,
)
from smartpay_fraud.domain.verdict import Costs, Policy, Verdict

T = TypeVar("T")

_COUNTED = (
    "SELECT l.*, (SELECT COUNT(*) FROM screening_entries e WHERE e.list_id = l.list_id)"
    " AS entry_count FROM screening_lists l"
)
_NEWEST = (
    "SELECT * FROM rule_sets WHERE merchant_id = ? AND livemode = ? ORDER BY version DESC LIMIT 1"
)


class SqliteRulebook:
    """Stores every change with its audit record, then puts it in force. One process owns it."""

    def __init__(self, store: SqliteStore, rulebook: Rulebook) -> None:
        self._store = store
        self._rulebook = rulebook
        self._stories: set[asyncio.Task[Any]] = set()

    async def load(self) -> None:
        """Puts in force what is stored; at start, before the first score."""

        def query(
            connection: sqlite3.Connection,
        ) -> tuple[list[Listing], list[sqlite3.Row], list[sqlite3.Row]]:
            listings = {row["list_id"]: Listing(_list(row)) for row in connection.execute(_COUNTED)}
            for row in connection.execute("SELECT * FROM screening_entries"):
                listings[row["list_id"]].add([_entry(row)])
            newest = "SELECT *, MAX(version) FROM rule_sets GROUP BY merchant_id, livemode"
            return (
                list(listings.values()),
                connection.execute(newest).fetchall(),
                connection.execute("SELECT * FROM policies").fetchall(),
            )

        listings, rule_sets, policies = await self._store.read(query)
        self._rulebook.put_lists(listings)
        for row in rule_sets:
            self._rulebook.put_rules(row["merchant_id"], bool(row["livemode"]), _rule_set(row))
        for row in policies:
            self._rulebook.put_policy(row["merchant_id"], bool(row["livemode"]), _policy(row))

    # ---- lists -------------------------------------------------------------------------------

    async def create_list(self, made: ScreeningList, record: AuditRecord) -> ScreeningList:
        """Stores a new list; answers the one that holds the name when it says the same.

        Raises:
            Refusal: LIST_EXISTS or LIMIT_REACHED.
        """

        def work(connection: sqlite3.Connection) -> ScreeningList | None:
            held = _found(connection, made.merchant_id, made.livemode, made.list_id)
            if held is not None:
                if not held.says(made.kind, made.verdict, made.description):
                    raise list_exists()
                return held
            (count,) = connection.execute(
                "SELECT COUNT(*) FROM screening_lists WHERE merchant_id = ? AND livemode = ?",
                (made.merchant_id, made.livemode),
            ).fetchone()
            if count >= LISTS_MAX:
                raise limit_reached("lists", LISTS_MAX)
            connection.execute(
                "INSERT INTO screening_lists VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    made.list_id,
                    made.merchant_id,
                    made.livemode,
                    made.name,
                    made.kind.name,
                    made.verdict and made.verdict.value,
                    made.description,
                    made.create_ms,
                    made.update_ms,
                ),
            )
            insert_record(connection, record)
            return None

        def follow(held: ScreeningList | None) -> None:
            if held is None:
                self._rulebook.put_lists([Listing(made)])

        return await self._change(work, follow) or made

    async def find_list(self, merchant_id: str, livemode: bool, list_id: str) -> ScreeningList:
        """Reads a list; raises Refusal LIST_NOT_FOUND."""
        held = await self._store.read(lambda c: _found(c, merchant_id, livemode, list_id))
        if held is None:
            raise list_not_found()
        return held

    async def page_of_lists(
        self, merchant_id: str, livemode: bool, after: str, size: int
    ) -> tuple[list[ScreeningList], str]:
        """Reads a page by name, and the position to go on after; "" at the end."""
        sql = f"{_COUNTED} WHERE merchant_id = ? AND livemode = ? AND name > ? ORDER BY name"
        rows = await self._store.read(
            lambda c: c.execute(
                f"{sql} LIMIT ?", (merchant_id, livemode, after, size + 1)
            ).fetchall()
        )
        position = rows[size - 1]["name"] if len(rows) > size else ""
        return [_list(row) for row in rows[:size]], position

    async def delete_list(
        self, merchant_id: str, livemode: bool, list_id: str, record: AuditRecord
    ) -> None:
        """Removes a list and its entries.

        Raises:
            Refusal: LIST_NOT_FOUND, or LIST_IN_USE while a rule in force asks it.
        """

        def work(connection: sqlite3.Connection) -> None:
            if _found(connection, merchant_id, livemode, list_id) is None:
                raise list_not_found()
            row = connection.execute(_NEWEST, (merchant_id, livemode)).fetchone()
            asking = lists_asked(_rule_set(row)) if row else {}
            if list_id in asking:
                raise list_in_use(asking[list_id])
            connection.execute("DELETE FROM screening_entries WHERE list_id = ?", (list_id,))
            connection.execute("DELETE FROM screening_lists WHERE list_id = ?", (list_id,))
            insert_record(connection, record)

        await self._change(work, lambda _: self._rulebook.drop_list(merchant_id, livemode, list_id))

    async def add_entries(
        self, screening: ScreeningList, entries: Sequence[Entry], record: AuditRecord
    ) -> ScreeningList:
        """Stores entries, in the place of earlier and of expired ones; answers the list then.

        Raises:
            Refusal: LIMIT_REACHED, or LIST_NOT_FOUND when it was removed meanwhile.
        """

        def work(connection: sqlite3.Connection) -> tuple[ScreeningList, list[str]]:
            expired = connection.execute(
                "DELETE FROM screening_entries WHERE list_id = ? AND expire_ms <= ?"
                " RETURNING value",
                (screening.list_id, record.time_ms),
            ).fetchall()
            connection.executemany(
                "INSERT OR REPLACE INTO screening_entries VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (screening.list_id, e.value, e.expire_ms, e.note, e.create_ms, e.create_actor)
                    for e in entries
                ],
            )
            changed = _touched(connection, screening, record)
            if changed.entry_count > ENTRIES_MAX:
                raise limit_reached("entries on a list", ENTRIES_MAX)
            return changed, [row["value"] for row in expired]

        def follow(done: tuple[ScreeningList, list[str]]) -> None:
            listing = self._rulebook.listing(done[0])
            listing.discard(done[1])
            listing.add(entries)

        changed, _ = await self._change(work, follow)
        return changed

    async def remove_entries(
        self, screening: ScreeningList, values: Sequence[str], record: AuditRecord
    ) -> ScreeningList:
        """Removes entries by their values; answers the list as it is then.

        Raises:
            Refusal: LIST_NOT_FOUND when it was removed meanwhile.
        """

        def work(connection: sqlite3.Connection) -> ScreeningList:
            connection.executemany(
                "DELETE FROM screening_entries WHERE list_id = ? AND value = ?",
                [(screening.list_id, value) for value in values],
            )
            return _touched(connection, screening, record)

        return await self._change(
            work, lambda changed: self._rulebook.listing(changed).discard(values)
        )

    async def page_of_entries(
        self, list_id: str, after: str, size: int, now_ms: int
    ) -> tuple[list[Entry], str]:
        """Reads a page by value without expired ones, and the position to go on after."""
        sql = (
            "SELECT * FROM screening_entries WHERE list_id = ? AND value > ?"
            " AND (expire_ms IS NULL OR expire_ms > ?) ORDER BY value LIMIT ?"
        )
        rows = await self._store.read(
            lambda c: c.execute(sql, (list_id, after, now_ms, size + 1)).fetchall()
        )
        entries = [_entry(row) for row in rows[:size]]
        return entries, entries[-1].value if len(rows) > size else ""

    # ---- rules -------------------------------------------------------------------------------

    async def rule_set(self, merchant_id: str, livemode: bool, version: int) -> RuleSet | None:
        """Reads a version of a merchant's rules; None when there never was such a one."""
        if version == DEFAULT_RULES.version:
            return DEFAULT_RULES
        sql = "SELECT * FROM rule_sets WHERE merchant_id = ? AND livemode = ? AND version = ?"
        row = await self._store.read(
            lambda c: c.execute(sql, (merchant_id, livemode, version)).fetchone()
        )
        return _rule_set(row) if row else None

    async def page_of_rule_sets(
        self, merchant_id: str, livemode: bool, before: int, size: int
    ) -> list[RuleSet]:
        """Reads versions older than `before`, newest first, without what all begin with."""
        sql = (
            "SELECT * FROM rule_sets WHERE merchant_id = ? AND livemode = ? AND version < ?"
            " ORDER BY version DESC LIMIT ?"
        )
        rows = await self._store.read(
            lambda c: c.execute(sql, (merchant_id, livemode, before, size)).fetchall()
        )
        return [_rule_set(row) for row in rows]

    async def put_rules(
        self, merchant_id: str, livemode: bool, rule_set: RuleSet, record: AuditRecord
    ) -> None:
        """Stores the next version and puts it in force.

        Raises:
            Refusal: RULES_CHANGED when somebody else was faster.
        """

        def work(connection: sqlite3.Connection) -> None:
            row = connection.execute(_NEWEST, (merchant_id, livemode)).fetchone()
            current = row["version"] if row else DEFAULT_RULES.version
            if rule_set.version != current + 1:
                raise rules_changed(current)
            for list_id in lists_asked(rule_set):
                if _found(connection, merchant_id, livemode, list_id) is None:
                    raise list_not_found()
            connection.execute(
                "INSERT INTO rule_sets VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    merchant_id,
                    livemode,
                    rule_set.version,
                    json.dumps([_rule_facts(rule) for rule in rule_set.rules]),
                    rule_set.note,
                    rule_set.create_ms,
                    rule_set.create_actor,
                ),
            )
            insert_record(connection, record)

        await self._change(
            work, lambda _: self._rulebook.put_rules(merchant_id, livemode, rule_set)
        )

    # ---- policy ------------------------------------------------------------------------------

    async def put_policy(
        self, merchant_id: str, livemode: bool, policy: Policy, record: AuditRecord
    ) -> None:
        """Stores the next version and puts it in force.

        Raises:
            Refusal: ETAG_MISMATCH when somebody else was faster.
        """

        def work(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT version FROM policies WHERE merchant_id = ? AND livemode = ?",
                (merchant_id, livemode),
            ).fetchone()
            if policy.version != (row["version"] if row else 0) + 1:
                raise etag_mismatch()
            connection.execute(
                "INSERT OR REPLACE INTO policies VALUES (?, ?, ?, ?, ?)",
                (
                    merchant_id,
                    livemode,
                    policy.version,
                    json.dumps(asdict(policy)),
                    policy.update_ms,
                ),
            )
            insert_record(connection, record)

        await self._change(work, lambda _: self._rulebook.put_policy(merchant_id, livemode, policy))

    async def _change(
        self, work: Callable[[sqlite3.Connection], T], follow: Callable[[T], None]
    ) -> T:
        """Stores, then puts in force; both happen even when the caller goes away between."""

        async def story() -> T:
            result = await self._store.write(work)
            follow(result)
            return result

        task = asyncio.create_task(story())
        self._stories.add(task)
        task.add_done_callback(self._stories.discard)
        return await asyncio.shield(task)


def _found(
    connection: sqlite3.Connection, merchant_id: str, livemode: bool, list_id: str
) -> ScreeningList | None:
    row = connection.execute(
        f"{_COUNTED} WHERE list_id = ? AND merchant_id = ? AND livemode = ?",
        (list_id, merchant_id, livemode),
    ).fetchone()
    return _list(row) if row else None


def _touched(
    connection: sqlite3.Connection, screening: ScreeningList, record: AuditRecord
) -> ScreeningList:
    connection.execute(
        "UPDATE screening_lists SET update_ms = ? WHERE list_id = ?",
        (record.time_ms, screening.list_id),
    )
    insert_record(connection, record)
    changed = _found(connection, screening.merchant_id, screening.livemode, screening.list_id)
    if changed is None:
        raise list_not_found()
    return changed


def _list(row: sqlite3.Row) -> ScreeningList:
    return ScreeningList(
        list_id=row["list_id"],
        merchant_id=row["merchant_id"],
        livemode=bool(row["livemode"]),
        name=row["name"],
        kind=Kind[row["kind"]],
        verdict=Verdict(row["verdict"]) if row["verdict"] else None,
        description=row["description"],
        create_ms=row["create_ms"],
        update_ms=row["update_ms"],
        entry_count=row["entry_count"],
    )


def _entry(row: sqlite3.Row) -> Entry:
    return Entry(row["value"], row["expire_ms"], row["note"], row["create_ms"], row["create_actor"])


def _rule_facts(rule: Rule) -> dict[str, object]:
    facts = asdict(rule)
    facts["verdict"] = rule.verdict.value
    for condition in facts["conditions"]:
        condition["operator"] = condition["operator"].value
    return facts


def _rule(facts: dict[str, object]) -> Rule:
    conditions = facts.pop("conditions")
    assert isinstance(conditions, list | tuple)
    return Rule(
        **{**facts, "verdict": Verdict(facts["verdict"])},  # type: ignore[arg-type]
        conditions=tuple(
            Condition(
                **{
                    **condition,
                    "operator": Operator(condition["operator"]),
                    "texts": tuple(condition["texts"]),
                }
            )
            for condition in conditions
        ),
    )


def _rule_set(row: sqlite3.Row) -> RuleSet:
    return RuleSet(
        version=row["version"],
        rules=tuple(map(_rule, json.loads(row["rules"]))),
        note=row["note"],
        create_ms=row["create_ms"],
        create_actor=row["create_actor"],
    )


def _policy(row: sqlite3.Row) -> Policy:
    facts = json.loads(row["policy"])
    costs = facts.pop("costs")
    return Policy(costs=Costs(**costs) if costs else None, **facts)
