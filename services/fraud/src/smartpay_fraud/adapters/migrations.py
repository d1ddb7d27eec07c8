"""The schema of the embedded store, as it grew; scripts are only ever added at the end."""

from __future__ import annotations

MIGRATIONS = (
    """
    CREATE TABLE assessments (
        number INTEGER PRIMARY KEY,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        transaction_id TEXT NOT NULL,
        scored_ms INTEGER NOT NULL,
        verdict TEXT NOT NULL,
        input TEXT NOT NULL,
        output TEXT NOT NULL,
        UNIQUE (merchant_id, livemode, transaction_id)
    );
    CREATE TABLE findings (
        number INTEGER PRIMARY KEY,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        transaction_id TEXT NOT NULL,
        name TEXT NOT NULL,
        finding TEXT NOT NULL,
        known_ms INTEGER NOT NULL,
        UNIQUE (merchant_id, livemode, transaction_id, name)
    );
    CREATE TABLE cursors (stream TEXT PRIMARY KEY, cursor TEXT NOT NULL) WITHOUT ROWID
    """,
    # The base row is what a back-test judges; the names of its columns are kept once per set.
    # An entity's column is NULL where it is not told, so that its index holds only what is. The
    # customer's is the key by which payments tells of an erasure.
    """
    CREATE TABLE feature_sets (number INTEGER PRIMARY KEY, names TEXT NOT NULL UNIQUE);
    ALTER TABLE assessments ADD COLUMN feature_set INTEGER;
    ALTER TABLE assessments ADD COLUMN row BLOB;
    ALTER TABLE assessments ADD COLUMN shadow_version TEXT;
    ALTER TABLE assessments ADD COLUMN shadow_score REAL;
    ALTER TABLE assessments ADD COLUMN customer_key BLOB;
    ALTER TABLE assessments ADD COLUMN instrument_id TEXT;
    ALTER TABLE assessments ADD COLUMN device_id TEXT;
    ALTER TABLE assessments ADD COLUMN ip_address TEXT;
    CREATE INDEX assessments_by_tenant ON assessments (merchant_id, livemode, number);
    CREATE INDEX assessments_by_customer ON assessments (customer_key)
        WHERE customer_key IS NOT NULL;
    CREATE INDEX assessments_by_instrument ON assessments (instrument_id, merchant_id, livemode)
        WHERE instrument_id IS NOT NULL;
    CREATE INDEX assessments_by_device ON assessments (device_id, merchant_id, livemode)
        WHERE device_id IS NOT NULL;
    CREATE INDEX assessments_by_address ON assessments (ip_address, merchant_id, livemode)
        WHERE ip_address IS NOT NULL;
    CREATE TABLE screening_lists (
        list_id TEXT PRIMARY KEY,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        name TEXT NOT NULL,
        kind TEXT NOT NULL,
        verdict TEXT,
        description TEXT NOT NULL,
        create_ms INTEGER NOT NULL,
        update_ms INTEGER NOT NULL,
        UNIQUE (merchant_id, livemode, name)
    ) WITHOUT ROWID;
    CREATE TABLE screening_entries (
        list_id TEXT NOT NULL,
        value TEXT NOT NULL,
        expire_ms INTEGER,
        note TEXT NOT NULL,
        create_ms INTEGER NOT NULL,
        create_actor TEXT NOT NULL,
        PRIMARY KEY (list_id, value)
    ) WITHOUT ROWID;
    CREATE TABLE rule_sets (
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        version INTEGER NOT NULL,
        rules TEXT NOT NULL,
        note TEXT NOT NULL,
        create_ms INTEGER NOT NULL,
        create_actor TEXT NOT NULL,
        PRIMARY KEY (merchant_id, livemode, version)
    ) WITHOUT ROWID;
    CREATE TABLE policies (
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        version INTEGER NOT NULL,
        policy TEXT NOT NULL,
        update_ms INTEGER NOT NULL,
        PRIMARY KEY (merchant_id, livemode)
    ) WITHOUT ROWID;
    CREATE TABLE reviews (
        number INTEGER PRIMARY KEY,
        review_id TEXT NOT NULL UNIQUE,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        transaction_id TEXT NOT NULL,
        state TEXT NOT NULL,
        amount_minor INTEGER NOT NULL,
        currency_code TEXT NOT NULL,
        score REAL NOT NULL,
        assignee TEXT NOT NULL DEFAULT '',
        resolution TEXT,
        note TEXT NOT NULL DEFAULT '',
        resolve_actor TEXT NOT NULL DEFAULT '',
        close_reason TEXT NOT NULL DEFAULT '',
        delivery TEXT,
        held INTEGER NOT NULL DEFAULT 0,
        create_ms INTEGER NOT NULL,
        end_ms INTEGER,
        version INTEGER NOT NULL DEFAULT 1,
        due_ms INTEGER,
        tries INTEGER NOT NULL DEFAULT 0,
        UNIQUE (merchant_id, livemode, transaction_id)
    );
    CREATE INDEX reviews_by_state ON reviews (merchant_id, livemode, state, number);
    CREATE INDEX reviews_due ON reviews (due_ms) WHERE due_ms IS NOT NULL;
    CREATE TABLE audit (
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
    );
    CREATE INDEX audit_by_tenant ON audit (merchant_id, livemode, number);
    CREATE INDEX audit_by_subject ON audit (merchant_id, livemode, subject_id, number)
    """,
    # Scores by column, so that nothing is parsed to be found or replayed, and the index of traces
    # in place of five: each of them had every score change another page. What was scored before is
    # traced at the first start. Its runs are merged 64 pages at once: small ones, of 1000 bytes,
    # halve the longest time a score waits for that.
    """
    CREATE VIRTUAL TABLE traces USING fts5 (
        prints, content = '', detail = none, columnsize = 0, tokenize = 'ascii'
    );
    INSERT INTO traces (traces, rank) VALUES ('pgsz', 1000);
    INSERT INTO cursors VALUES ('traces', '0');
    ALTER TABLE assessments RENAME TO assessments_as_text;
    CREATE TABLE assessments (
        number INTEGER PRIMARY KEY,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        transaction_id TEXT NOT NULL,
        amount_minor INTEGER NOT NULL,
        currency_code TEXT NOT NULL,
        customer_id TEXT NOT NULL,
        instrument_id TEXT NOT NULL,
        device_id TEXT NOT NULL,
        ip_address TEXT NOT NULL,
        terminal_id TEXT NOT NULL,
        merchant_category TEXT NOT NULL,
        country TEXT NOT NULL,
        verdict TEXT NOT NULL,
        score REAL NOT NULL,
        grounds TEXT NOT NULL,
        model_version TEXT NOT NULL,
        rules_version INTEGER NOT NULL,
        scored_ms INTEGER NOT NULL,
        margin REAL NOT NULL,
        shadow_version TEXT,
        shadow_score REAL,
        opens_review INTEGER NOT NULL,
        control INTEGER NOT NULL,
        feature_set INTEGER,
        row BLOB,
        UNIQUE (merchant_id, livemode, transaction_id)
    );
    INSERT INTO assessments SELECT
        number,
        merchant_id,
        livemode,
        transaction_id,
        json_extract(input, '$.amount_minor'),
        json_extract(input, '$.currency_code'),
        coalesce(json_extract(input, '$.customer_id'), ''),
        coalesce(json_extract(input, '$.instrument_id'), ''),
        coalesce(json_extract(input, '$.device_id'), ''),
        coalesce(json_extract(input, '$.ip_address'), ''),
        coalesce(json_extract(input, '$.terminal_id'), ''),
        coalesce(json_extract(input, '$.merchant_category'), ''),
        coalesce(json_extract(input, '$.country'), ''),
        verdict,
        json_extract(output, '$.score'),
        json_array(
            json(coalesce(json_extract(output, '$.reasons'), '[]')),
            json(coalesce(json_extract(output, '$.matched_rules'), '[]')),
            json(coalesce(json_extract(output, '$.matched_lists'), '[]'))
        ),
        json_extract(output, '$.model_version'),
        json_extract(output, '$.rules_version'),
        scored_ms,
        coalesce(json_extract(output, '$.margin'), 0.0),
        shadow_version,
        shadow_score,
        coalesce(json_extract(output, '$.opens_review'), 0),
        coalesce(json_extract(output, '$.control'), 0),
        feature_set,
        row
        FROM assessments_as_text ORDER BY number;
    DROP TABLE assessments_as_text
    """,
)
