"""Anybody's table is read as it is meant, or refused with column, row, reason and remedy."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from smartpay_fraud.domain.features import DAY_MS
from smartpay_fraud.training.stream import NEVER, TableError
from smartpay_fraud.training.transactions_file import read

NOON_MS = 1_522_584_000_000  # 2018-04-01T12:00Z
PLAIN = {
    "transaction_id": [1, 2, 3],
    "timestamp": ["2018-04-01 12:00:00", "2018-04-01T12:00:01.500", "2018-04-02T00:00:00+02:00"],
    "customer_id": [7, 7, 8],
    "terminal_id": ["a", "b", "a"],
    "amount": [12.5, 0.1, 1234.56],
    "is_fraud": [0, 1, 0],
}


def a_table(folder: Path, **changed: object) -> Path:
    columns = {**PLAIN, **changed}
    path = folder / "payments.parquet"
    kept = {name: values for name, values in columns.items() if values is not None}
    pyarrow.parquet.write_table(pa.table(kept), path)
    return path


def test_a_plain_table_becomes_a_stream_in_order_of_time(tmp_path: Path) -> None:
    reading = read(a_table(tmp_path))
    stream = reading.stream
    assert stream.time_ms.tolist() == [NOON_MS, NOON_MS + 1_500, NOON_MS + 10 * 3_600_000]
    assert stream.amount_minor.tolist() == [1250, 10, 123_456]
    assert stream.fraud.tolist() == [False, True, False]
    assert stream.known_ms.tolist() == [NEVER, NOON_MS + 1_500 + 7 * DAY_MS, NEVER]
    assert [t.customer_id for t in stream.transactions()] == ["7", "7", "8"]
    assert [t.terminal_id for t in stream.transactions()] == ["a", "b", "a"]
    assert reading.rounded == 0


def test_csv_and_parquet_read_alike_whatever_the_order_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "payments.csv"
    path.write_text(
        "extra,transaction_id,timestamp,customer_id,terminal_id,amount,is_fraud,card_id\n"
        "x,00b,2018-04-01T12:00:01,007,t,0.10,true,\n"
        "x,00a,2018-04-01T12:00:00,08,t,12.5,FALSE,k1\n"
    )
    stream = read(path).stream
    first, second = stream.transactions()
    assert (first.customer_id, second.customer_id) == ("08", "007")
    assert (first.amount_minor, second.amount_minor) == (1250, 10)
    assert (first.instrument_id, second.instrument_id) == ("k1", "")
    assert stream.fraud.tolist() == [False, True]


@pytest.mark.parametrize(
    "times",
    [
        [1_522_584_000, 1_522_584_001, 1_522_584_002],
        [1_522_584_000_000, 1_522_584_001_000, 1_522_584_002_000],
        [1_522_584_000.0, 1_522_584_001.0, 1_522_584_002.0],
        [1_522_584_000 * 10**9, 1_522_584_001 * 10**9, 1_522_584_002 * 10**9],
        [datetime(2018, 4, 1, 12, 0, second, tzinfo=UTC) for second in range(3)],
        [datetime(2018, 4, 1, 12, 0, second) for second in range(3)],
        ["1522584000", "1522584001", "1522584002"],
        ["2018-04-01T12:00:00Z", "2018-04-01T14:00:01+02:00", "2018-04-01 12:00:02"],
    ],
)
def test_times_may_be_epochs_moments_or_text(tmp_path: Path, times: list[object]) -> None:
    stream = read(a_table(tmp_path, timestamp=times)).stream
    assert stream.time_ms.tolist() == [NOON_MS, NOON_MS + 1_000, NOON_MS + 2_000]


def test_amounts_take_their_currencys_digits_and_rounding_is_counted(tmp_path: Path) -> None:
    reading = read(
        a_table(
            tmp_path,
            amount=[Decimal("12.50"), Decimal("1234.000"), Decimal("1.005")],
            currency=["eur", "JPY", None],
        )
    )
    assert reading.stream.amount_minor.tolist() == [1250, 1234, 100]
    assert reading.rounded == 1
    assert [t.currency_code for t in reading.stream.transactions()] == ["EUR", "JPY", ""]


def test_an_amount_that_only_a_float_blurs_is_not_called_rounded(tmp_path: Path) -> None:
    reading = read(a_table(tmp_path, amount=[0.29, 1.1, 70_000.07]))
    assert reading.stream.amount_minor.tolist() == [29, 110, 7_000_007]
    assert reading.rounded == 0
    assert read(a_table(tmp_path, amount=[0.291, 1.1, 2.0])).rounded == 1


def test_optional_columns_are_handed_on(tmp_path: Path) -> None:
    path = a_table(
        tmp_path,
        merchant_id=["m", "m", None],
        device_id=[1.0, None, 2.0],
        ip_address=["203.0.113.9", "", None],
        merchant_category=[742, 5411, None],
        country=["de", "FR", None],
        known_at=[None, datetime(2018, 4, 3, tzinfo=UTC), None],
    )
    stream = read(path).stream
    one, two, three = stream.transactions()
    assert (one.merchant_id, one.device_id, one.ip_address) == ("m", "1", "203.0.113.9")
    assert (one.merchant_category, two.merchant_category) == ("0742", "5411")
    assert (one.country, two.country, three.country) == ("DE", "FR", "")
    assert (two.device_id, two.ip_address, three.merchant_category) == ("", "", "")
    assert stream.known_ms.tolist() == [NEVER, NOON_MS + 36 * 3_600_000, NEVER]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"terminal_id": None}, "no column terminal_id; the required columns are"),
        ({"transaction_id": [1, 2, 1]}, "transaction_id, row 3: 1 stands twice"),
        ({"amount": [1.0, -2.0, 3.0]}, "amount, row 2: '-2.0' is not an amount"),
        ({"amount": ["1.0", "1,5", "2"]}, "amount, row 2: '1,5' is not an amount"),
        ({"amount": [1.0, 2.0, float("nan")]}, "amount, row 3: 'nan'"),
        ({"is_fraud": [0, 1, 2]}, "is_fraud, row 3: '2' is neither 0 nor 1"),
        ({"timestamp": ["2018-04-01", "soon", "2018"]}, "timestamp, row 2: 'soon' is no time"),
        ({"timestamp": [1.0, float("inf"), 2.0]}, "timestamp, row 2: is no time"),
        ({"customer_id": ["a", None, "b"]}, "customer_id, row 2: is missing"),
        ({"customer_id": ["a", "b", " "]}, "customer_id, row 3: is empty"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_column_and_row(
    tmp_path: Path, changed: dict[str, object], told: str
) -> None:
    with pytest.raises(TableError, match=told):
        read(a_table(tmp_path, **changed))


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("hello\n")
    with pytest.raises(TableError, match="no column transaction_id"):
        read(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(TableError, match="neither Parquet nor CSV"):
        read(path)
    with pytest.raises(TableError, match="can't be opened"):
        read(tmp_path / "absent.csv")


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no rows"):
        read(a_table(tmp_path, **{name: pa.array([], pa.string()) for name in PLAIN}))
