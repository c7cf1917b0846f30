"""Every broken row goes to quarantine with its file, number and reason, and the rows beside it load."""

from pathlib import Path

import polars as pl
import pytest
import yaml

from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.landing.load import load_days
from tests.ml.landing.rows import DAY, SURFACES, exposures, listens, put, to_csv, to_jsonl, with_value

BROKEN = Path(__file__).parent / "broken" / "rows"


@pytest.mark.slow
def test_every_kind_of_broken_row_is_quarantined_with_file_and_reason_and_the_rest_loads(
    settings: Settings, lake: Lake
) -> None:
    expected: dict[str, list[str]] = {}
    good: dict[str, int] = {}
    for file, expect in yaml.safe_load((BROKEN / "expect.yaml").read_text(encoding="utf-8")).items():
        table, name = file.split("/")
        put(settings, table, name, (BROKEN / file).read_bytes())
        expected[f"{table}/day={DAY}/{name}"] = expect["reasons"]
        good[table] = good.get(table, 0) + expect["loaded"]

    reports = load_days(lake, settings, [DAY], SURFACES)

    found: dict[str, list[str]] = {}
    rows = lake.sql(
        "select file, reason, row_number, content, table_name from landing.quarantine order by all"
    ).to_pylist()
    for row in rows:
        found.setdefault(row["file"], []).append(row["reason"].split(";")[0])  # what to do stands behind it
        assert row["row_number"] >= 1
        assert row["content"]
        assert row["file"].startswith(row["table_name"])
    assert found == {file: reasons for file, reasons in expected.items() if reasons}
    assert {r.table: r.rows_loaded for r in reports if r.rows_in} == good
    for report in reports:
        assert report.rows_in == report.rows_loaded + report.rows_quarantined
        (count,) = lake.connection.execute(f"select count(*) from landing.{report.table}").fetchall()[0]
        assert count == report.rows_loaded
        assert sum(report.reasons.values()) == report.rows_quarantined
    ledger = lake.sql(
        "select table_name, rows_in, rows_loaded, rows_quarantined, input_hash from landing.ledger"
    ).to_pylist()
    assert {
        (r["table_name"], r["rows_in"], r["rows_loaded"], r["rows_quarantined"], r["input_hash"]) for r in ledger
    } == {(r.table, r.rows_in, r.rows_loaded, r.rows_quarantined, r.input_hash) for r in reports}


def test_duplicates_across_files_keep_the_first(settings: Settings, lake: Lake) -> None:
    put(settings, "exposures", "a.csv", to_csv(exposures("a")))
    put(settings, "exposures", "b.jsonl", to_jsonl(exposures("a")))
    (report, *_) = load_days(lake, settings, [DAY], SURFACES)
    assert (report.rows_loaded, report.reasons) == (3, {"duplicate": 3})
    files = lake.sql("select distinct file from landing.quarantine").to_pylist()
    assert files == [{"file": f"exposures/day={DAY}/b.jsonl"}]


def test_a_good_row_stays_when_its_twin_is_bad_for_another_reason(settings: Settings, lake: Lake) -> None:
    twins = with_value(pl.concat([listens("a", 1), listens("a", 1)]), "played_s", "-1")
    put(settings, "listens", "a.csv", to_csv(twins))
    reports = {r.table: r for r in load_days(lake, settings, [DAY], SURFACES)}
    assert (reports["listens"].rows_loaded, reports["listens"].reasons) == (1, {"negative: played_s": 1})


def test_row_numbers_point_at_the_record(settings: Settings, lake: Lake) -> None:
    lines = to_csv(listens("a", 4)).splitlines(keepends=True)
    lines[2] = b"ragged\n"
    lines[4] = lines[4].replace(b"completed", b"paused")
    put(settings, "listens", "a.csv", b"".join(lines))
    load_days(lake, settings, [DAY], SURFACES)
    rows = lake.sql("select row_number, reason, content from landing.quarantine order by row_number").to_pylist()
    assert [(r["row_number"], r["reason"]) for r in rows] == [
        (2, "ragged row: 1 column instead of 7"),
        (4, "value not allowed: outcome"),
    ]
    assert rows[0]["content"] == "ragged"
    assert '"listen_id":"a3"' in rows[1]["content"]
