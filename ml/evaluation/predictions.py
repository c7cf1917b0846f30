"""Scores of every model on the evaluation rows: ``ml.predictions_<surface>``, from which every figure is recomputed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import pyarrow as pa

from ml.foundation.lake import ALIAS, FEATURES, ML, Lake, quoted
from ml.surfaces.spec import RANKING_SCORE, Surface
from ml.teacher.teachers import LabelsOf

Model = Literal["teacher", "control", "student", "baseline", "incumbent", "champion", "reference"]
Inputs = Literal["serving", "logged"]

MODELS: tuple[Model, ...] = ("teacher", "control", "student", "baseline", "incumbent", "champion", "reference")
PARTIAL: frozenset[str] = frozenset({"teacher", "incumbent"})
"""Models that may lack scores of some rows."""
INPUTS: tuple[Inputs, ...] = ("serving", "logged")
"""``serving``: inputs known only after ranking stand at their serving value, which gates; ``logged``: as logged."""

RANK_TASK = RANKING_SCORE
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


ScoreKey = tuple[str, str, str]
"""Inputs, model and task of a score."""


class PredictionError(ValueError):
    """Predictions that cannot be stored or evaluated."""


@dataclass(frozen=True)
class Scores:
    """Raw outputs of models on the same rows.

    Attributes:
        exposure_ids: int64 [n], rising.
        values: float64 [n] by inputs, model and task; NaN where a model has no score of a row.
        hashes: Content hash by model.
    """

    exposure_ids: np.ndarray
    values: dict[ScoreKey, np.ndarray]
    hashes: dict[str, str]

    def on(self, exposure_ids: np.ndarray) -> dict[ScoreKey, np.ndarray]:
        """Return the scores of other rows [m], each [m]; NaN where there is none."""
        if not len(self.exposure_ids):
            return {key: np.full(len(exposure_ids), np.nan) for key in self.values}
        place = np.searchsorted(self.exposure_ids, exposure_ids).clip(max=len(self.exposure_ids) - 1)
        found = self.exposure_ids[place] == exposure_ids
        return {key: np.where(found, values[place], np.nan) for key, values in self.values.items()}

    def without(self, model: str) -> "Scores":
        """Return the scores of all other models."""
        values = {key: scores for key, scores in self.values.items() if key[1] != model}
        return Scores(self.exposure_ids, values, {name: of for name, of in self.hashes.items() if name != model})


def beside(first: Scores, others: Iterable[Scores]) -> Scores:
    """Return the rows of ``first`` with the scores of all."""
    values, hashes = dict(first.values), dict(first.hashes)
    for other in others:
        values |= other.on(first.exposure_ids)
        hashes |= other.hashes
    return Scores(first.exposure_ids, values, hashes)


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
    model: str,
    model_hash: str,
    inputs: str,
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


def stored_scores(lake: Lake, surface: str, partition: date) -> Scores:
    """Return the stored predictions of a partition.

    Raises:
        PredictionError: There are none, or two hashes of one model.
    """
    if not lake.table_exists(predictions_table(surface)):
        raise PredictionError(f"{surface} has no predictions")
    query = f"select * from {ALIAS}.{predictions_table(surface)} where partition = ?"
    scores = as_scores(lake, f"({query})", [partition])
    if not scores.hashes:
        raise PredictionError(f"{surface} has no predictions of {partition}")
    return scores


def as_scores(lake: Lake, relation: str, parameters: Sequence[object] = ()) -> Scores:
    """Turn rows like those of ``SCHEMA`` into a column for each model, kind of inputs and task.

    Args:
        lake: The lake, or a snapshot of it.
        relation: A parenthesised query.
        parameters: Of that query.

    Raises:
        PredictionError: Two hashes of one model.
    """
    query = f"select distinct inputs, model, task, model_hash from {relation} as p order by all"
    found = lake.sql(query, parameters).to_pylist()
    hashes: dict[str, str] = {}
    for row in found:
        if hashes.setdefault(row["model"], row["model_hash"]) != row["model_hash"]:
            raise PredictionError(f"model {row['model']!r} has more than one hash in the predictions")
    keys = [(row["inputs"], row["model"], row["task"]) for row in found]
    columns = "".join(
        f", max(score) filter (where inputs = ? and model = ? and task = ?) as score_{i}" for i in range(len(keys))
    )
    query = f"select exposure_id{columns} from {relation} as p group by exposure_id order by exposure_id"
    rows = lake.sql(query, [*(value for key in keys for value in key), *parameters])
    values = {key: rows[f"score_{i}"].to_numpy().astype(np.float64) for i, key in enumerate(keys)}
    return Scores(rows["exposure_id"].to_numpy(), values, hashes)


def largest_differences(stored: Scores, again: Scores) -> dict[str, float]:
    """Return the largest absolute difference of two sets of scores by model, over rows, inputs and tasks.

    A score that one has and the other lacks is infinitely far. Models that only one knows are there too.
    """
    rows = np.union1d(stored.exposure_ids, again.exposure_ids)
    pair = stored.on(rows), again.on(rows)
    found = dict.fromkeys([*stored.hashes, *again.hashes], 0.0)
    for key in pair[0].keys() | pair[1].keys():
        absent = np.full(len(rows), np.nan)
        a, b = (scores.get(key, absent) for scores in pair)
        apart = np.where(np.isnan(a) & np.isnan(b), 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf))
        found[key[1]] = max(found[key[1]], float(apart.max(initial=0.0)))
    return found


def teacher_predictions(
    lake: Lake, surface: Surface, partition: date, labels: Sequence[LabelsOf], days: Sequence[date] | None = None
) -> pa.Table:
    """Build the teachers' rows from ``ml.soft_labels_<surface>``: the raw output for each task's counterpart.

    Of several teachers it is the one whose output the task names. A teacher sees none of the ranker's inputs, so the
    same score stands under both kinds of inputs. Exposures without a soft label are left out.

    Args:
        lake: Lake to read.
        surface: Its tasks name their counterparts in ``teacher_output``; tasks without one get no rows.
        partition: Partition that is evaluated.
        labels: Whose labels, one entry a teacher.
        days: Evaluation days; default those that the surface begins with.
    """
    query, parameters = teacher_query(surface, partition, labels, days)
    return lake.sql(query, parameters).cast(SCHEMA) if query else SCHEMA.empty_table()


def teacher_query(
    surface: Surface, partition: date, labels: Sequence[LabelsOf], days: Sequence[date] | None = None
) -> tuple[str, list[object]]:
    """Return the query of ``teacher_predictions`` and its parameters; no query where no task has a counterpart."""
    days = days or surface.evaluation_days(partition)
    outputs = {name: (of, place) for of in labels for place, name in enumerate(of.outputs, 1)}
    selects: list[str] = []
    parameters: list[object] = []
    model_hash = "+".join(f"{of.version}:{of.contract_hash}" for of in labels)
    for task, spec in surface.tasks.items():
        if spec.teacher_output is None or spec.teacher_output not in outputs:
            continue
        of, place = outputs[spec.teacher_output]
        for inputs in INPUTS:
            selects.append(
                f"select ?::date as partition, day, exposure_id, 'teacher' as model, ? as model_hash, "
                f"'{inputs}' as inputs, ? as task, scores[{place}] as score "
                f"from {ALIAS}.{ML}.soft_labels_{surface.name} where day between ? and ? "
                "and teacher_version = ? and contract_hash = ?"
            )
            parameters += [partition, model_hash, task, days[0], days[-1], of.version, of.contract_hash]
    return " union all ".join(selects), parameters


def baseline_predictions(lake: Lake, surface: Surface, partition: date, days: Sequence[date] | None = None) -> pa.Table:
    """Build the popularity baseline's rows: the value of each task's ``baseline`` input, its default where null.

    ``days`` are the evaluation days, by default those that the surface begins with.
    """
    query, parameters = baseline_query(surface, partition, days)
    return lake.sql(query, parameters).cast(SCHEMA) if query else SCHEMA.empty_table()


def baseline_query(surface: Surface, partition: date, days: Sequence[date] | None = None) -> tuple[str, list[object]]:
    """Return the query of ``baseline_predictions`` and its parameters; no query where no task has a baseline."""
    days = days or surface.evaluation_days(partition)
    selects: list[str] = []
    parameters: list[object] = []
    for task, spec in surface.tasks.items():
        if spec.baseline is None:
            continue
        for inputs in INPUTS:
            selects.append(
                f"select ?::date as partition, day, exposure_id, 'baseline' as model, 'baseline' as model_hash, "
                f"'{inputs}' as inputs, '{task}' as task, coalesce({quoted(spec.baseline)}, ?)::double as score "
                f"from {ALIAS}.{FEATURES}.examples_{surface.name} where day between ? and ?"
            )
            parameters += [partition, surface.inputs[spec.baseline].default, days[0], days[-1]]
    return " union all ".join(selects), parameters


def _repeat(value: object, size: int, kind: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), size)


def _require_in(rows: pa.Table, column: str, allowed: Sequence[object], surface: str) -> None:
    found = set(rows[column].unique().to_pylist()) - set(allowed)
    if found:
        listed = ", ".join(sorted(map(str, found)))
        raise PredictionError(
            f"predictions of {surface} have {column} {listed}; allowed: {', '.join(map(str, allowed))}"
        )
