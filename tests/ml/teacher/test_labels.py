"""Soft labels: streamed, complete, repeatable, side by side by version, and never half written."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml.foundation.lake import Lake
from ml.foundation.progress import Step
from ml.foundation.settings import Settings
from ml.teacher import labels
from ml.teacher.columns import ColumnError
from ml.teacher.contract import load_contract
from ml.teacher.labels import LabelError, label_days, rescore, soft_labels_table
from ml.teacher.runtime import open_teacher

Write = Callable[..., Any]


def stored(lake: Lake, condition: str = "true") -> pa.Table:
    return lake.sql(f"select * from lake.ml.soft_labels_home where {condition} order by day, exposure_id")


def matrix(table: pa.Table) -> np.ndarray:
    return np.array(table["scores"].to_pylist())


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_every_row_is_scored_as_in_one_batch(
    threads: int,
    lake: Lake,
    settings: Settings,
    teacher_folder: Write,
    write_inputs: Write,
    days: list[date],
    expected: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(labels, "BATCH_ROWS", 2048)
    contract = load_contract(teacher_folder())
    written = write_inputs(days, rows=7_000)
    report = label_days(lake, settings.model_copy(update={"threads": threads}), "home", contract, days)
    table = stored(lake)
    assert (report.rows, report.examples, report.coverage) == (21_000, 21_000, 1.0)
    assert set(table["teacher_version"].to_pylist()) == {"1"}
    assert set(table["contract_hash"].to_pylist()) == {contract.contract_hash}
    model = open_teacher(contract)
    for day in days:
        order = np.argsort(written[day]["exposure_id"])
        rows = {
            "user": written[day]["user"][order],
            "age": written[day]["age"][order].astype(np.float32),
            "taste": written[day]["taste"][order],
        }
        got = stored(lake, f"day = '{day}'")
        assert got["exposure_id"].to_pylist() == written[day]["exposure_id"][order].tolist()
        assert np.array_equal(matrix(got), model.score(rows))
        np.testing.assert_allclose(matrix(got)[:, 0], expected(**rows), atol=1e-5)
    summary = report.outputs["click"]
    clicks = matrix(table)[:, 0]
    np.testing.assert_allclose(
        [summary.mean, summary.sd, summary.min, summary.max], [clicks.mean(), clicks.std(), clicks.min(), clicks.max()]
    )


@pytest.mark.slow
def test_labelling_again_or_day_by_day_gives_the_same_hash(
    lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date]
) -> None:
    contract = load_contract(teacher_folder())
    write_inputs(days)
    first = label_days(lake, settings, "home", contract, days)
    hashes = [day.content_hash for day in first.days]
    assert len(set(hashes)) == 3
    again = label_days(lake, settings.model_copy(update={"threads": 2}), "home", contract, days)
    assert [day.content_hash for day in again.days] == hashes
    assert [label_days(lake, settings, "home", contract, [day]).days[0].content_hash for day in reversed(days)] == (
        hashes[::-1]
    )
    assert stored(lake).num_rows == 1_500


@pytest.mark.slow
def test_every_day_is_told_in_order_also_one_without_examples(
    lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date]
) -> None:
    write_inputs([days[1]], rows=10)
    told: list[Step] = []
    report = label_days(lake, settings, "home", load_contract(teacher_folder()), days, told.append)
    assert [day.rows for day in report.days] == [0, 10, 0] and [step.done for step in told] == [1, 2, 3]
    assert [step.line for step in told] == [f"{d}, {n} rows scored" for d, n in zip(days, (0, 10, 0), strict=True)]


@pytest.mark.slow
def test_missing_columns_cells_and_nan_take_the_default_and_are_counted(
    lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date]
) -> None:
    contract = load_contract(teacher_folder())
    age = pa.array([None, float("nan"), 2.0, 3.0])
    taste = pa.array([[1.0, 0.0, 0.0], None, [1.0, None, 0.0], [0.0, 0.0, 1.0]], type=pa.list_(pa.float32()))
    write_inputs(
        days[:1], rows=4, drop=("user",), exposure_id=pa.array([10, 11, 12, 13]), age=age, taste=taste, extra=age
    )
    report = label_days(lake, settings, "home", contract, days[:1])
    table = stored(lake)
    assert table["defaulted_inputs"].to_pylist() == [2, 3, 2, 1]
    np.testing.assert_allclose(matrix(table)[:, 0], [0.5 + 1, 0.5 + 0.75, 2 + 0.75, 3 + 1], atol=1e-6)
    assert report.absent_inputs == ("user",)
    assert report.defaulted_inputs == {"user": 1.0, "age": 0.5, "taste": 0.5}
    assert report.defaulted_share == pytest.approx(8 / 12)
    assert report.days[0].defaulted_share == pytest.approx(8 / 12)


@pytest.mark.slow
def test_versions_stand_side_by_side_and_replace_only_themselves(
    lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date]
) -> None:
    write_inputs(days)
    one = load_contract(teacher_folder())
    two = load_contract(teacher_folder(version="2", folder="two"))
    before = label_days(lake, settings, "home", one, days)
    label_days(lake, settings, "home", two, days)
    assert stored(lake, "teacher_version = '1'").num_rows == stored(lake, "teacher_version = '2'").num_rows == 1_500
    write_inputs(days[:1], rows=300, seed=9)
    label_days(lake, settings, "home", two, days[:1])
    assert stored(lake, "teacher_version = '2'").num_rows == 1_300
    for day in before.days:
        found = labels.label_hashes(lake, "home", one.version, one.contract_hash, [day.day])
        assert found == {day.day: (500, day.content_hash)}


@pytest.mark.slow
def test_a_day_without_examples_ends_without_labels(
    lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date]
) -> None:
    contract = load_contract(teacher_folder())
    write_inputs(days)
    label_days(lake, settings, "home", contract, days)
    lake.connection.execute("delete from lake.features.teacher_inputs_home where day = ?", [days[1]])
    report = label_days(lake, settings, "home", contract, days)
    assert [day.rows for day in report.days] == [500, 0, 500]
    assert stored(lake, f"day = '{days[1]}'").num_rows == 0


@pytest.mark.slow
def test_a_score_that_is_not_finite_is_named_and_nothing_is_written(
    lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date]
) -> None:
    contract = load_contract(teacher_folder())
    write_inputs(days)
    label_days(lake, settings, "home", contract, days)
    before = lake.snapshot(), lake.content_hash("lake.ml.soft_labels_home")
    ages = np.full(500, 1.0)
    ages[77] = 3e38
    tastes = pa.array([[3e38, 3e38, 0.0]] * 500, type=pa.list_(pa.float32()))
    write_inputs(days[2:], age=pa.array(ages), taste=tastes, exposure_id=pa.array(range(500)))
    with pytest.raises(LabelError, match=r"output 'click' of exposure 0 is inf.*nothing was written"):
        label_days(lake, settings, "home", contract, days)
    assert lake.content_hash("lake.ml.soft_labels_home") == before[1]
    assert not list((settings.home / "spool").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"user": pa.array(["a"] * 500)}, r"teacher_inputs_home\.user is VARCHAR, the teacher's contract says int64"),
        ({"taste": pa.array([1.0] * 500)}, r"\.taste is DOUBLE, .*float32\[3\]"),
        ({"age": pa.array([[1.0]] * 500)}, r"\.age is DOUBLE\[\], .*float32"),
        (
            {
                "taste": pa.array([[1.0, 2.0, 3.0]] * 499 + [[1.0, 2.0]], type=pa.list_(pa.float32())),
                "exposure_id": pa.array(range(500)),
            },
            r"\.taste of row 499 has 2 values, the teacher's contract says 3",
        ),
    ],
    ids=["text", "number for a vector", "vector for a number", "short vector"],
)
def test_a_column_that_does_not_fit_is_refused_by_name(
    column: dict[str, pa.Array],
    message: str,
    lake: Lake,
    settings: Settings,
    teacher_folder: Write,
    write_inputs: Write,
    days: list[date],
) -> None:
    write_inputs(days[:1], **column)
    with pytest.raises(ColumnError, match=message):
        label_days(lake, settings, "home", load_contract(teacher_folder()), days[:1])
    assert not lake.table_exists(soft_labels_table("home")) or stored(lake).num_rows == 0


def test_a_surface_without_examples_is_refused_by_table(lake: Lake, settings: Settings, teacher_folder: Write) -> None:
    with pytest.raises(LabelError, match=r"no table features\.teacher_inputs_home"):
        label_days(lake, settings, "home", load_contract(teacher_folder()), [date(2026, 1, 1)])


@pytest.mark.slow
def test_scoring_again_agrees_and_finds_what_was_changed(
    lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date]
) -> None:
    contract = load_contract(teacher_folder())
    write_inputs(days)
    with pytest.raises(LabelError, match=r"ml\.soft_labels_home has no rows: the surface was never labelled"):
        rescore(lake, settings, "home", contract, days)
    labels.init_soft_labels(lake, "home")
    with pytest.raises(LabelError, match="no rows of teacher 'small' '1' on 2026-01-01 to 2026-01-03"):
        rescore(lake, settings, "home", contract, days)
    label_days(lake, settings, "home", contract, days)
    assert rescore(lake, settings, "home", contract, days, n=100, seed=3) < 1e-6
    lake.connection.execute(
        "update lake.ml.soft_labels_home set scores = [scores[1] + 0.5, scores[2]] where day = ?", [days[0]]
    )
    assert rescore(lake, settings, "home", contract, days, n=100, seed=3) == pytest.approx(0.5, abs=1e-6)
    lake.connection.execute("delete from lake.features.teacher_inputs_home where day = ?", [days[1]])
    with pytest.raises(LabelError, match=r"teacher_inputs_home has no row for exposure \d+"):
        rescore(lake, settings, "home", contract, days, n=100, seed=3)


@pytest.fixture
def landed(lake: Lake, days: list[date]) -> Write:
    """Write ``features.stg_teacher_scores`` from (day, exposure, task, score, version) rows."""

    def write(rows: list[tuple[date, int, str, float, str]]) -> None:
        names = ("day", "exposure_id", "task", "score", "teacher_version")
        table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
        lake.replace_days("features.stg_teacher_scores", table, {row[0] for row in rows})

    return write


@pytest.mark.slow
def test_landed_scores_become_labels_and_missing_tasks_lower_the_coverage(
    lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date], landed: Write
) -> None:
    contract = load_contract(teacher_folder(model=None, scores=True, inputs=None))
    written = write_inputs(days[:2], rows=4)
    with pytest.raises(LabelError, match=r"no table features\.stg_teacher_scores"):
        label_days(lake, settings, "home", contract, days[:2])
    ids = [sorted(written[day]["exposure_id"].tolist()) for day in days[:2]]
    one, two = days[:2]
    rows = [(one, key, "click", 1.0 + n, "1") for n, key in enumerate(ids[0])]
    rows += [(one, key, "seen", 0.75, "1") for key in ids[0][:3]]
    rows += [(one, ids[0][0], "click", 99.0, "0"), (one, ids[0][0], "other", 5.0, "1"), (one, 555, "click", 1.0, "1")]
    rows += [(one, ids[1][0], "click", 99.0, "1"), (two, ids[1][0], "seen", 0.5, "1")]
    rows += [(two, ids[1][1], "click", 1.0, "1"), (days[2], ids[1][1], "click", 7.0, "1")]
    rows += [(two, ids[1][1], "seen", 0.5, "1")]
    landed(rows)
    report = label_days(lake, settings, "home", contract, days[:2])
    table = stored(lake)
    assert table["exposure_id"].to_pylist() == [*ids[0][:3], ids[1][1]]
    np.testing.assert_allclose(matrix(table)[:, 0], [1, 2, 3, 7])
    np.testing.assert_allclose(matrix(table)[:, 1], [np.log(3)] * 3 + [0.0], atol=1e-12)
    assert table["defaulted_inputs"].to_pylist() == [0] * 4
    assert [day.coverage for day in report.days] == [0.75, 0.25]
    assert report.coverage == 0.5
    assert rescore(lake, settings, "home", contract, days[:2]) == 0.0


@pytest.mark.slow
def test_a_landed_score_is_of_the_account_and_goes_with_a_link_that_was_withdrawn(
    lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date], landed: Write
) -> None:
    contract = load_contract(teacher_folder(model=None, scores=True, inputs=None))
    ids = sorted(write_inputs(days[:1], rows=2)[days[0]]["exposure_id"].tolist())
    landed([(days[0], key, task, 0.5, "1") for key in ids for task in ("click", "seen")])
    shown = pa.table({"day": days[:1] * 2, "exposure_id": ids, "user_id": [1, 2]})
    users = {"day": [days[0], days[0], days[1]], "user_id": [1, 2, 2], "source_user_id": [7, 8, None]}
    lake.replace_days("features.stg_exposures", shown, days[:1])
    lake.replace_days("features.stg_users", pa.table(users), days[:2])
    label_days(lake, settings, "home", contract, days[:1])
    assert stored(lake)["exposure_id"].to_pylist() == ids[:1]


def test_a_landed_score_that_is_no_probability_is_refused(
    lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date], landed: Write
) -> None:
    contract = load_contract(teacher_folder(model=None, scores=True, inputs=None))
    key = int(write_inputs(days[:1], rows=1)[days[0]]["exposure_id"][0])
    landed([(days[0], key, "click", 0.0, "1"), (days[0], key, "seen", 1.5, "1")])
    with pytest.raises(LabelError, match=f"output 'seen' of exposure {key} is nan .*or no probability"):
        label_days(lake, settings, "home", contract, days[:1])
    assert stored(lake).num_rows == 0


@pytest.mark.slow
def test_a_killed_labelling_leaves_the_table_as_it_was(
    lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date]
) -> None:
    path = teacher_folder()
    contract = load_contract(path)
    write_inputs(days)
    label_days(lake, settings, "home", contract, days)
    write_inputs(days, rows=2_000, seed=5)
    before = lake.content_hash("lake.ml.soft_labels_home")
    code = f"""
        import time
        from datetime import date
        from pathlib import Path
        from ml.foundation.lake import Lake
        from ml.foundation.settings import Settings
        from ml.teacher.contract import load_contract
        from ml.teacher.labels import label_days
        settings = Settings(home={str(settings.home)!r}, threads=1)
        days = [date.fromisoformat(day) for day in {[str(day) for day in days]!r}]
        def pause(step):
            print(step, flush=True)
            time.sleep(60) if step.done == step.total else None
        with Lake(settings) as lake:
            label_days(lake, settings, "home", load_contract(Path({str(path)!r})), days, pause)
    """
    environment = os.environ | {"PYTHONPATH": str(Path(labels.__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    for line in process.stdout:
        if str(days[-1]) in line:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    assert lake.content_hash("lake.ml.soft_labels_home") == before
    left = list((settings.home / "spool").iterdir())
    assert len(left) == 1
    long_ago = time.time() - 90_000
    os.utime(left[0], (long_ago, long_ago))
    assert label_days(lake, settings, "home", contract, days).rows == 6_000
    assert not list((settings.home / "spool").iterdir())
