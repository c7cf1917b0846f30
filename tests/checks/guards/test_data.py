"""Guard `data`: healthy examples pass, every kind of fault in the lake fails the check that is about it."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from checks import gx
from checks.guards import data
from ml.evaluation.outcome import Outcome
from ml.foundation.artifacts import ArtifactStore
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.releases.verdicts import Check
from ml.students.checkpoint import META_FILE, WEIGHTS_FILE, save_checkpoint
from ml.students.columns import to_arrays
from ml.students.network import Ranker
from ml.students.preprocessing import Preprocessing
from ml.surfaces.spec import Surface
from tests.checks.spoilt import Bench, blocked


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, toolbox) -> tuple[Settings, Surface]:
    return toolbox.make_home(tmp_path_factory.mktemp("lake") / "home")


@pytest.fixture
def lake(home: tuple[Settings, Surface], toolbox) -> Iterator[Lake]:
    with Lake(home[0]) as opened:
        yield opened
        day = toolbox.FIRST
        opened.replace_days("features.examples_tiny", toolbox.examples(day), [day])


def _failed(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if check.outcome is not Outcome.PASS}


def _set(table: pa.Table, column: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(column), column, values)


def _first(table: pa.Table, column: str, value: object) -> pa.Table:
    """Replace the first value of a column."""
    values = table[column].to_pylist()
    return _set(table, column, pa.array([value, *values[1:]], table.schema.field(column).type))


FAULTS = {
    "rows": lambda t: t.slice(0, 10),
    "duplicate_ids": lambda t: pa.concat_tables([t, t.slice(0, 1)]),
    "null_keys": lambda t: _first(t, "exposure_id", None),
    "foreign_times": lambda t: _first(t, "ts", t["ts"][0].as_py() + timedelta(days=1)),
    "bad_labels": lambda t: _first(t, "label_ctr", 0.5),
    "bad_values": lambda t: _first(t, "item_ctr", float("nan")),
    "null_share": lambda t: _set(t, "item_id", pa.nulls(t.num_rows, pa.int64())),
    "values_unlike_their_features": lambda t: _first(t, "item_age_days", t["item_age_days"][0].as_py() + 1),
    "label_rate_ctr": lambda t: _set(t, "label_ctr", pa.array([0.0] * t.num_rows)),
}


def test_healthy_examples_pass(home, lake: Lake, toolbox) -> None:
    checks = data.judge_days(lake, home[1], home[0].days(toolbox.FIRST, toolbox.PARTITION))
    assert _failed(checks) == set()
    assert {"rows", "null_share", "label_rate_ctr", "days_behind"} <= {check.name for check in checks}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_examples_fails_its_check(home, lake: Lake, toolbox, name: str) -> None:
    day = toolbox.FIRST
    lake.replace_days("features.examples_tiny", FAULTS[name](toolbox.examples(day)), [day])
    days = home[0].days(day, toolbox.PARTITION)
    checks = data.judge_days(lake, home[1], days)
    assert name in _failed(checks)
    assert next(c for c in checks if c.name == name).detail == str(day)
    assert _failed(checks) <= {name, "bad_labels", "values_unlike_their_features"}


def test_without_feature_tables_the_values_are_not_compared_and_that_is_shown(home, lake: Lake, toolbox) -> None:
    lake.connection.execute("alter table lake.features.feat_item rename to feat_elsewhere")
    try:
        checks = data.judge_days(lake, home[1], [toolbox.FIRST])
    finally:
        lake.connection.execute("alter table lake.features.feat_elsewhere rename to feat_item")
    shown = next(check for check in checks if check.name == "values_unlike_their_features")
    assert shown.outcome is Outcome.WARN and "nothing to compare with" in shown.detail


@pytest.mark.parametrize(
    ("column", "value"), [("content", [1.0]), ("content", [1.0, float("inf")]), ("label_trail", float("inf"))]
)
def test_vectors_and_regression_labels_are_looked_into(home, lake: Lake, toolbox, column: str, value: object) -> None:
    day = toolbox.FIRST
    lake.replace_days("features.examples_tiny", _first(toolbox.examples(day), column, value), [day])
    (row,) = data.measure(lake, home[1], [day])
    assert (row["bad_values"], row["bad_labels"]) == ((1, 0) if column == "content" else (0, 1))


def test_a_day_without_examples_fails_and_a_missing_newest_day_is_not_fresh(home, lake: Lake, toolbox) -> None:
    beyond = toolbox.PARTITION + timedelta(days=1)
    assert {"rows", "null_share", "label_rate_ctr", "days_behind"} <= _failed(data.judge_days(lake, home[1], [beyond]))
    assert "days_behind" in _failed(data.judge_days(lake, home[1], [toolbox.PARTITION, beyond]))


def test_the_guard_reads_the_snapshot_that_it_is_given(home, lake: Lake, toolbox) -> None:
    day = toolbox.FIRST
    before = lake.snapshot()
    lake.replace_days("features.examples_tiny", toolbox.examples(day).slice(0, 5), [day])
    assert "rows" in _failed(data.judge_days(lake, home[1], [day]))
    with Lake(home[0], snapshot=before) as past:
        assert _failed(data.judge_days(past, home[1], [day])) == set()


@pytest.mark.parametrize(("kept", "outcome"), [(1.0, "pass"), (0.3, "fail"), (0.0, "fail")])
def test_a_label_rate_is_held_against_the_days_before_it(home, lake: Lake, toolbox, kept: float, outcome: str) -> None:
    day = toolbox.PARTITION + timedelta(days=1)
    rows = toolbox.examples(day)
    clicks = [
        click if place < kept * rows.num_rows else 0.0 for place, click in enumerate(rows["label_ctr"].to_pylist())
    ]
    lake.replace_days("features.examples_tiny", _set(rows, "label_ctr", pa.array(clicks)), [day])
    try:
        checks = {check.name: check for check in data.judge_days(lake, home[1], [toolbox.PARTITION, day])}
    finally:
        lake.replace_days("features.examples_tiny", rows.slice(0, 0), [day])
    found = checks["label_rate_ctr_as_before"]
    assert found.outcome == outcome and str(day) in found.detail
    assert kept == 0 or checks["label_rate_ctr"].outcome is Outcome.PASS, "its own bounds say nothing"


def test_the_first_days_of_an_app_have_no_days_before_them(home, lake: Lake, toolbox) -> None:
    checks = {check.name: check for check in data.judge_days(lake, home[1], [toolbox.FIRST])}
    found = checks["label_rate_ctr_as_before"]
    assert (found.outcome, found.detail) == (Outcome.PASS, "no day has enough days before it")


def test_a_null_share_names_the_input(home, lake: Lake, toolbox) -> None:
    day = toolbox.FIRST
    table = toolbox.examples(day)
    lake.replace_days("features.examples_tiny", FAULTS["null_share"](table), [day])
    (row,) = data.measure(lake, home[1], [day])
    assert (row["null_share"], row["null_input"]) == (1.0, "item_id")
    assert table["item_id"].null_count == 0


def test_the_days_are_measured_again_at_the_recorded_snapshot(bench: Bench, toolbox) -> None:
    day = toolbox.FIRST
    with Lake(bench.settings) as lake:
        lake.replace_days("features.examples_tiny", toolbox.examples(day).slice(0, 5), [day])
        spoilt = lake.snapshot()
        lake.replace_days("features.examples_tiny", toolbox.examples(day), [day])
    assert bench.ask(data.GUARD).outcome is Outcome.PASS
    result = bench.variant(snapshot=spoilt).ask(data.GUARD)
    assert result.outcome is Outcome.FAIL and "rows" in blocked(result)
    assert result.means == data.GUARD.means and result.to_do == data.GUARD.to_do


def test_a_snapshot_that_is_gone_blocks(bench: Bench) -> None:
    result = bench.variant(snapshot=10**9).ask(data.GUARD)
    assert (result.outcome, result.checks) == (Outcome.FAIL, ())
    assert result.reason.startswith("could not be evaluated: ")


def test_ids_that_share_an_embedding_or_have_none_are_counted_and_warn(home, lake: Lake, toolbox, tmp_path) -> None:
    settings, surface = home
    days = settings.days(toolbox.FIRST, toolbox.PARTITION)
    content = surface.model_dump(mode="json", by_alias=True)
    content["inputs"]["user_id"]["id_table"] = {"max_ids": 2, "hash_buckets": 3, "unseen": "bucket"}
    content["inputs"]["item_id"]["id_table"] = {"max_ids": 2}
    bounded = Surface.model_validate(content)
    rows = to_arrays(pa.concat_tables(map(toolbox.examples, days)), bounded.inputs, "serving")
    columns = {name: torch.from_numpy(values) for name, values in rows.items()}
    save_checkpoint(Ranker(bounded, Preprocessing.fit(bounded.inputs, columns), 1), {"technique": "none"}, tmp_path)
    files: dict[str, bytes | Path] = {
        "model.safetensors": tmp_path / WEIGHTS_FILE,
        "checkpoint.json": tmp_path / META_FILE,
    }
    checkpoint = ArtifactStore(tmp_path / "store").put("models/tiny/control", "2026-01-01", files)
    found = {row["input"]: row for row in data.measure_ids(lake, bounded, checkpoint, days)}
    shares = {}
    for name in ("user_id", "item_id"):
        _, counts = np.unique(rows[name], return_counts=True)
        shares[name] = float(np.sort(counts)[-2:].sum() / counts.sum())
        assert found[name]["exact"] == pytest.approx(shares[name]) and found[name]["rows"] == len(rows[name])
    assert found["user_id"]["unknown"] == 0 and found["item_id"]["hashed"] == 0
    assert found["item_id"]["unknown"] == pytest.approx(1 - shares["item_id"])
    limits = data.IdTables(max_hashed_share=1, max_unknown_share=0.1)
    checks = {c.name: c for c in gx.validate(found.values(), data.ids_suite(limits, list(found.values())))}
    assert {name for name, c in checks.items() if c.outcome is Outcome.WARN} == {"item_id_unknown_share"}
    assert "item_id: " in checks["item_id_unknown_share"].detail and len(checks) == 4


def test_the_guard_looks_at_bounded_tables_where_there_are_any(bench: Bench) -> None:
    content = bench.surface.model_dump(mode="json", by_alias=True)
    content["inputs"]["item_id"]["id_table"] = {"max_ids": 9}
    names = {check.name for check in bench.but(surface=Surface.model_validate(content)).ask(data.GUARD).checks}
    shares = {"item_id_hashed_share", "item_id_unknown_share"}
    assert shares <= names and not shares & {check.name for check in bench.ask(data.GUARD).checks}
