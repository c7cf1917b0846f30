"""Predictions replace those of their partition and model, and refuse what could not be evaluated."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml.evaluation.predictions import (
    PredictionError,
    baseline_predictions,
    student_predictions,
    teacher_predictions,
    write_predictions,
)
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.teacher.teachers import LabelsOf

DAY = date(2026, 1, 30)
PARTITION = date(2026, 2, 1)


def rows(model: str = "student", value: float = 0.5, **changes: Any) -> pa.Table:
    """Three rows of one task."""
    arguments = {
        "partition": PARTITION,
        "days": pa.array([DAY] * 3),
        "exposure_ids": np.array([1, 2, 3]),
        "model": model,
        "model_hash": "a",
        "inputs": "serving",
    }
    return student_predictions({"ctr": np.full(3, value)}, **arguments | changes)


@pytest.mark.slow
def test_a_rewrite_replaces_its_model_and_partition_only(tmp_path: Path) -> None:
    with Lake(Settings(home=tmp_path, threads=1)) as lake:
        write_predictions(lake, "radio", PARTITION, rows("student", 0.1))
        write_predictions(lake, "radio", PARTITION, rows("control", 0.2))
        write_predictions(lake, "radio", DAY, rows("student", 0.3, partition=DAY))
        write_predictions(lake, "radio", PARTITION, rows("student", 0.4))
        found = lake.sql(
            "select partition, model, count(*) n, min(score) s from lake.ml.predictions_radio group by all order by all"
        ).to_pylist()
    assert [(r["partition"], r["model"], r["n"], r["s"]) for r in found] == [
        (DAY, "student", 3, 0.3),
        (PARTITION, "control", 3, 0.2),
        (PARTITION, "student", 3, 0.4),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "message"),
    [
        (lambda: rows(value=float("nan")), r"3 scores of radio are not finite, the first: .*'exposure_id': 1"),
        (lambda: rows(value=float("inf")), "3 scores of radio are not finite"),
        (lambda: rows("oracle"), "predictions of radio have model oracle; allowed: teacher, control"),
        (lambda: rows(inputs="future"), "have inputs future; allowed: serving, logged"),
        (lambda: rows(partition=DAY), "have partition 2026-01-30; allowed: 2026-02-01"),
        (lambda: rows(exposure_ids=np.array([1, 2, 2])), "1 predictions of radio repeat a key, such as .*2"),
        (lambda: pa.concat_tables([rows(), rows(model_hash="b", inputs="logged")]), "'student' of radio has 2 hashes"),
        (lambda: rows(model_hash=None), "3 predictions of radio have no model_hash"),
    ],
)
def test_unusable_predictions_are_refused_and_nothing_is_written(tmp_path: Path, table: Any, message: str) -> None:
    with Lake(Settings(home=tmp_path, threads=1)) as lake:
        with pytest.raises(PredictionError, match=message):
            write_predictions(lake, "radio", PARTITION, table())
        assert not lake.table_exists("ml.predictions_radio")


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(PredictionError, match=r"task 'ctr': scores \(3,\), 3 days, 2 exposures"):
        rows(exposure_ids=np.array([1, 2]))


def test_the_teachers_rows_are_its_raw_outputs_for_each_counterpart(world: Any) -> None:
    labels = LabelsOf(version="1", contract_hash="c", outputs=("click", "watch", "continue", "like"))
    table = teacher_predictions(world.lake, world.surface, PARTITION, [labels])
    soft = world.lake.sql("select exposure_id, scores from lake.ml.soft_labels_homepage").to_pylist()
    raw = {r["exposure_id"]: r["scores"] for r in soft}
    found = table.to_pylist()
    assert {(r["task"], r["inputs"]) for r in found} == {
        (t, i) for t in ("ctr", "trail") for i in ("serving", "logged")
    }
    assert all(r["score"] == raw[r["exposure_id"]][0 if r["task"] == "ctr" else 1] for r in found)
    assert {r["day"] for r in found} == set(world.surface.evaluation_days(PARTITION))
    none = teacher_predictions(world.lake, world.surface, PARTITION, [labels.model_copy(update={"version": "2"})])
    assert none.num_rows == 0


def test_the_baseline_is_its_input_with_the_default_for_nulls(world: Any) -> None:
    table = baseline_predictions(world.lake, world.surface, PARTITION)
    default = world.surface.inputs["item_ctr"].default
    nulls = world.lake.sql(
        "select exposure_id from lake.features.examples_homepage where item_ctr is null and day between ? and ?",
        [date(2026, 1, 29), date(2026, 1, 31)],
    )["exposure_id"].to_pylist()
    scores = {r["exposure_id"]: r["score"] for r in table.to_pylist() if r["task"] == "ctr"}
    assert len(nulls) > 10
    assert {scores[i] for i in nulls} == {default}
