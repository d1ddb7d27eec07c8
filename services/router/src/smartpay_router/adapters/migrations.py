"""The router's tables. Scripts are only ever added at the end: a file remembers how many it had."""

from __future__ import annotations

MIGRATIONS = (
    """
    CREATE TABLE decisions (
        decision_id TEXT PRIMARY KEY,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        amount_minor INTEGER NOT NULL,
        currency TEXT NOT NULL,
        instrument_hash TEXT NOT NULL,
        route TEXT NOT NULL,
        payment_id TEXT NOT NULL,
        created_us INTEGER NOT NULL,
        expires_us INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX decisions_by_payment ON decisions (merchant_id, livemode, payment_id)
        WHERE payment_id <> '';
    CREATE INDEX decisions_by_age ON decisions (created_us);
    CREATE TABLE outcomes (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        decision_id TEXT NOT NULL,
        attempt_index INTEGER NOT NULL,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        processor_account_id TEXT NOT NULL,
        outcome TEXT NOT NULL,
        context_schema TEXT NOT NULL,
        context TEXT NOT NULL,
        UNIQUE (decision_id, attempt_index)
    ) STRICT;
    CREATE TABLE event_cursor (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        cursor TEXT NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE added_accounts (
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        accounts TEXT NOT NULL,
        PRIMARY KEY (merchant_id, livemode)
    ) STRICT
    """,
    # What the log held until here was of schema charge-1, which no later release learns from; it
    # is kept so that none of its outcomes counts again. Contexts are float64, little endian.
    """
    CREATE TABLE outcome_log (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL,
        decision_id TEXT NOT NULL,
        attempt_index INTEGER NOT NULL,
        is_final INTEGER NOT NULL,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        processor_account_id TEXT NOT NULL,
        processor TEXT NOT NULL,
        outcome TEXT NOT NULL,
        several_rails INTEGER NOT NULL,
        heard_before INTEGER NOT NULL,
        decided_at REAL NOT NULL,
        at REAL NOT NULL,
        context_schema TEXT NOT NULL,
        context BLOB NOT NULL,
        UNIQUE (decision_id, attempt_index, is_final)
    ) STRICT;
    INSERT INTO outcome_log
        SELECT position, 'one', decision_id, attempt_index, 1, merchant_id, livemode,
            processor_account_id, '', outcome, 0, 0, 0.0, 0.0, context_schema, x''
        FROM outcomes;
    DROP TABLE outcomes;
    CREATE TABLE outcome_horizon (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        decided_at REAL NOT NULL
    ) STRICT;
    CREATE TABLE open_decisions (
        decision_id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        processor_account_id TEXT NOT NULL,
        model TEXT NOT NULL,
        decided_at REAL NOT NULL,
        context_schema TEXT NOT NULL,
        context BLOB NOT NULL
    ) STRICT;
    CREATE INDEX open_decisions_by_age ON open_decisions (decided_at);
    CREATE TABLE chargebacks (
        dispute_id TEXT PRIMARY KEY,
        sequence INTEGER NOT NULL,
        decision_id TEXT NOT NULL,
        model TEXT NOT NULL,
        day INTEGER NOT NULL,
        share REAL NOT NULL
    ) STRICT;
    CREATE TABLE daily_tallies (
        model TEXT NOT NULL,
        day INTEGER NOT NULL,
        successes INTEGER NOT NULL,
        missing INTEGER NOT NULL,
        chargebacks INTEGER NOT NULL,
        lost_shares REAL NOT NULL,
        PRIMARY KEY (model, day)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE replica_epochs (
        owner TEXT PRIMARY KEY,
        epoch INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE replica_states (
        owner TEXT PRIMARY KEY,
        epoch INTEGER NOT NULL,
        position INTEGER NOT NULL,
        seen_at REAL NOT NULL,
        totals BLOB NOT NULL,
        breakers BLOB NOT NULL
    ) STRICT;
    CREATE TABLE replica_pulses (
        owner TEXT PRIMARY KEY,
        epoch INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        evidence BLOB NOT NULL
    ) STRICT
    """,
    # Only tenants' own decisions are read back: to be tried again, evaluated and compared.
    """
    CREATE TABLE routing_policies (
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        version INTEGER NOT NULL,
        terms TEXT NOT NULL,
        note TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        actor TEXT NOT NULL,
        UNIQUE (merchant_id, livemode, version)
    ) STRICT;
    CREATE TABLE routing_audit (
        number INTEGER PRIMARY KEY,
        audit_id TEXT NOT NULL UNIQUE,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        time_ms INTEGER NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        subject_id TEXT NOT NULL,
        request_id TEXT NOT NULL,
        changes TEXT NOT NULL
    ) STRICT;
    CREATE INDEX routing_audit_by_tenant ON routing_audit (merchant_id, livemode, number);
    CREATE INDEX decisions_by_tenant ON decisions (merchant_id, livemode, created_us, decision_id)
    """,
)
