"""Scores of every model on the evaluation rows: ``ml.predictions_<surface>``, from which every figure is recomputed."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Literal

import numpy as np
import pyarrow as pa

from ml.foundation.lake import ALIAS, FEATURES, ML, Lake
from ml.surfaces.spec import Surface

Model = Literal["teacher", "control", "student", "baseline", "champion", "reference"]
Inputs = Literal["serving", "logged"]

MODELS: tuple[Model, ...] = ("teacher", "control", "student", "baseline", "champion", "reference")
INPUTS: tuple[Inputs, ...] = ("serving", "logged")
"""``serving``: inputs known only after ranking stand at their serving value, which gates; ``logged``: as logged."""

RANK_TASK = "score"
"""Name under which a ranker's ranking score stands beside its tasks."""

SCHEMA = pa.schema(
    [
        ("partition", pa.date32()),
        ("day", pa.date32()),
        ("exposure_id", pa.int64()),
        ("model", pa.string()),
        ("model_hash", pa.string()),
        ("inputs", pa.string()),
        ("task", pa.string()),
        ("score", pa.float64()),
    ]
)
"""One row per exposure, model, inputs and task; ``score`` is the raw output, a logit or a value in the label's unit."""


class PredictionError(ValueError):
    """Predictions that cannot be stored or evaluated."""


def predictions_table(surface: str) -> str:
    """Return the ``schema.table`` that holds a surface's predictions."""
    return f"{ML}.predictions_{surface}"


def write_predictions(lake: Lake, surface: str, partition: date, rows: pa.Table) -> int:
    """Replace the rows of (partition, model), for each model in ``rows``, in one commit.

    Args:
        lake: Lake to write to.
        surface: Name of the surface.
        partition: Partition that was evaluated.
        rows: Table with the columns of ``SCHEMA``, all of this partition.

    Returns:
        Snapshot id after the commit.

    Raises:
        PredictionError: A null or non-finite value, another partition, an unknown model or inputs, a repeated key, or
            two hashes of one model.
    """
    rows = rows.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
    for name in SCHEMA.names:
        if rows[name].null_count:
            raise PredictionError(f"{rows[name].null_count} predictions of {surface} have no {name}")
    bad = np.flatnonzero(~np.isfinite(rows["score"].to_numpy()))
    if len(bad):
        first = rows.slice(int(bad[0]), 1).to_pylist()[0]
        raise PredictionError(f"{len(bad)} scores of {surface} are not finite, the first: {first}")
    _require_in(rows, "partition", [partition], surface)
    _require_in(rows, "model", MODELS, surface)
    _require_in(rows, "inputs", INPUTS, surface)
    keys = rows.group_by(["exposure_id", "model", "inputs", "task"]).aggregate([([], "count_all")])
    if keys.num_rows != rows.num_rows:
        first = keys.slice(int(keys["count_all"].to_numpy().argmax()), 1).to_pylist()[0]
        raise PredictionError(f"{rows.num_rows - keys.num_rows} predictions of {surface} repeat a key, such as {first}")
    hashes = rows.group_by("model").aggregate([("model_hash", "count_distinct")]).to_pylist()
    for row in hashes:
        if row["model_hash_count_distinct"] != 1:
            raise PredictionError(f"model {row['model']!r} of {surface} has {row['model_hash_count_distinct']} hashes")
    models = sorted(row["model"] for row in hashes)
    return lake.replace_days(
        predictions_table(surface),
        rows,
        [partition],
        day_column="partition",
        where="model in (" + ", ".join(f"'{m}'" for m in models) + ")",
        message=f"predictions of {surface} {partition}: {', '.join(models)}",
    )


def student_predictions(
    scores: Mapping[str, np.ndarray],
    *,
    partition: date,
    days: pa.Array | np.ndarray,
    exposure_ids: np.ndarray,
    model: Model,
    model_hash: str,
    inputs: Inputs,
) -> pa.Table:
    """Build the prediction rows of one ranker (student, control, champion or reference) on one kind of inputs.

    Args:
        scores: Raw output per task [n], optionally the ranking score under ``RANK_TASK``.
        partition: Partition that is evaluated.
        days: Day of each row [n], dates.
        exposure_ids: Exposure of each row [n].
        model: Role of the ranker.
        model_hash: Content hash of its checkpoint or ONNX file.
        inputs: Which values the ``after_ranking`` inputs had.

    Raises:
        PredictionError: Arrays of different lengths.
    """
    size = len(exposure_ids)
    days = pa.array(days).cast(pa.date32())
    for task, values in scores.items():
        if values.shape != (size,) or len(days) != size:
            raise PredictionError(f"task {task!r}: scores {values.shape}, {len(days)} days, {size} exposures")
    tables = [
        pa.table(
            {
                "partition": _repeat(partition, size, pa.date32()),
                "day": days,
                "exposure_id": pa.array(exposure_ids, pa.int64()),
                "model": _repeat(model, size, pa.string()),
                "model_hash": _repeat(model_hash, size, pa.string()),
                "inputs": _repeat(inputs, size, pa.string()),
                "task": _repeat(task, size, pa.string()),
                "score": pa.array(values.astype(np.float64), pa.float64()),
            },
            schema=SCHEMA,
        )
        for task, values in scores.items()
    ]
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()


def largest_difference(
    lake: Lake, surface: str, partition: date, model: str, rows: pa.Table, scores: Mapping[str, np.ndarray]
) -> float:
    """Compare scores of some examples with a model's stored predictions for inputs as when serving.

    Args:
        lake: The lake that holds the predictions.
        surface: Name of the surface.
        partition: Partition that was evaluated.
        model: Role of the ranker.
        rows: The examples [n].
        scores: Raw output per task [n].

    Returns:
        The largest absolute difference over tasks; infinite where a prediction is missing.
    """
    ids = rows["exposure_id"].to_pylist()
    query = f"""
        select s.task, s.exposure_id, s.score from {ALIAS}.{predictions_table(surface)} as s
        where s.partition = ? and s.model = ? and s.inputs = 'serving' and list_contains(?::bigint[], s.exposure_id)"""
    stored = lake.sql(query, [partition, model, ids])
    tasks = stored["task"].to_numpy(zero_copy_only=False)
    largest = 0.0
    for task, values in scores.items():
        own = stored.filter(pa.array(tasks == task))
        predicted = dict(zip(own["exposure_id"].to_pylist(), own["score"].to_pylist(), strict=True))
        found = np.array([predicted.get(i, np.inf) for i in ids])
        largest = max(largest, float(np.abs(found - values).max()))
    return largest


def teacher_predictions(
    lake: Lake, surface: Surface, partition: date, *, outputs: Sequence[str], teacher_version: str, contract_hash: str
) -> pa.Table:
    """Build the teacher's rows from ``ml.soft_labels_<surface>``: its raw output for each task's counterpart.

    The teacher sees none of the ranker's inputs, so the same score stands under both kinds of inputs. Exposures without
    a soft label are left out.

    Args:
        lake: Lake to read.
        surface: Its tasks name their counterparts in ``teacher_output``; tasks without one get no rows.
        partition: Partition that is evaluated.
        outputs: Task names of the contract's outputs, in the contract's order, which is that of ``scores``.
        teacher_version: Version whose labels are read.
        contract_hash: Hash of the contract that they were made under.
    """
    days = surface.evaluation_days(partition)
    selects, parameters = [], []
    for task, spec in surface.tasks.items():
        if spec.teacher_output is None or spec.teacher_output not in outputs:
            continue
        place = list(outputs).index(spec.teacher_output) + 1
        for inputs in INPUTS:
            selects.append(
                f"select ?::date as partition, day, exposure_id, 'teacher' as model, ? as model_hash, "
                f"'{inputs}' as inputs, ? as task, scores[{place}] as score "
                f"from {ALIAS}.{ML}.soft_labels_{surface.name} where day between ? and ? "
                "and teacher_version = ? and contract_hash = ?"
            )
            model_hash = f"{teacher_version}:{contract_hash}"
            parameters += [partition, model_hash, task, days[0], days[-1], teacher_version, contract_hash]
    return lake.sql(" union all ".join(selects), parameters).cast(SCHEMA) if selects else SCHEMA.empty_table()


def baseline_predictions(lake: Lake, surface: Surface, partition: date) -> pa.Table:
    """Build the popularity baseline's rows: the value of each task's ``baseline`` input, its default where null."""
    days = surface.evaluation_days(partition)
    selects, parameters = [], []
    for task, spec in surface.tasks.items():
        if spec.baseline is None:
            continue
        for inputs in INPUTS:
            selects.append(
                f"select ?::date as partition, day, exposure_id, 'baseline' as model, 'baseline' as model_hash, "
                f"'{inputs}' as inputs, '{task}' as task, coalesce({spec.baseline}, ?)::double as score "
                f"from {ALIAS}.{FEATURES}.examples_{surface.name} where day between ? and ?"
            )
            parameters += [partition, surface.inputs[spec.baseline].default, days[0], days[-1]]
    return lake.sql(" union all ".join(selects), parameters).cast(SCHEMA) if selects else SCHEMA.empty_table()


def _repeat(value: object, size: int, kind: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), size)


def _require_in(rows: pa.Table, column: str, allowed: Sequence[object], surface: str) -> None:
    found = set(rows[column].unique().to_pylist()) - set(allowed)
    if found:
        listed = ", ".join(sorted(map(str, found)))
        raise PredictionError(
            f"predictions of {surface} have {column} {listed}; allowed: {', '.join(map(str, allowed))}"
        )
