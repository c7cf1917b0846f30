"""The rows that an evaluation looks at: labels, lists, slices and the scores of every model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from difflib import get_close_matches

import numpy as np
import pyarrow as pa

from ml.evaluation.predictions import (
    PARTIAL,
    RANK_TASK,
    PredictionError,
    ScoreKey,
    Scores,
)
from ml.evaluation.results import ALL
from ml.foundation.lake import ALIAS, FEATURES, Lake, quoted
from ml.surfaces.condition import condition
from ml.surfaces.spec import HISTORY_SLICES, Surface


@dataclass(frozen=True)
class Frame:
    """Evaluation rows in the order of exposure_id, arrays [n]; scores by (inputs, model, task), NaN where missing."""

    users: np.ndarray
    sessions: np.ndarray
    labels: dict[str, np.ndarray]
    slices: dict[str, np.ndarray]
    scores: dict[ScoreKey, np.ndarray]
    hashes: dict[str, str]
    history: dict[str, str]


def read_frame(
    lake: Lake,
    surface: Surface,
    partition: date,
    teacher_outputs: Mapping[str, str],
    days: Sequence[date],
    scores: Scores,
) -> Frame:
    """Read the evaluation rows of ``days`` with the scores that count.

    Raises:
        PredictionError: There are no rows, a ranker lacks scores of some, or a label is not binary.
    """
    rows = _rows(lake, surface, partition, days)

    def column(name: str) -> np.ndarray:
        return rows[name].to_numpy()

    exposure_ids = column("exposure_id")
    strangers = len(np.setdiff1d(scores.exposure_ids, exposure_ids))
    if strangers:
        raise PredictionError(
            f"{strangers} exposures with predictions of {surface.name} {partition} are no examples "
            f"of {days[0]} to {days[-1]}"
        )
    known = _known(surface, scores, teacher_outputs).on(exposure_ids)
    for (inputs, model, task), values in known.items():
        missing = int(np.isnan(values).sum())
        if missing and model not in PARTIAL:
            raise PredictionError(
                f"{model} of {surface.name} {partition} lacks {task} scores ({inputs} inputs) "
                f"of {missing} of {len(values)} rows"
            )
    own_slices = {name: column(f"slice_{i}").astype(bool) for i, name in enumerate(surface.slices)}
    by_history, history = history_slices(column("user_id"), column("training_rows"))
    frame = Frame(
        users=column("user_id"),
        sessions=column("list"),
        labels={task: column(f"label_{i}").astype(np.float64) for i, task in enumerate(surface.tasks)},
        slices={ALL: np.ones(rows.num_rows, bool)} | own_slices | by_history,
        scores=known,
        hashes=scores.hashes,
        history=history,
    )
    for task, spec in surface.tasks.items():
        values = frame.labels[task]
        odd = values[np.isfinite(values) & (values != 0) & (values != 1)]
        if spec.kind == "binary" and len(odd):
            raise PredictionError(f"{spec.label} of {surface.name} is no binary label: it holds {odd[0]}")
    return frame


def history_slices(users: np.ndarray, training_rows: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Cut the evaluated users into thirds by how many training rows each has; equal numbers stay together.

    Args:
        users: User of each evaluation row [n].
        training_rows: Training rows of that user [n].

    Returns:
        {slice: mask [n]} of the thirds that hold users but not all of them, and {slice: numbers of its users}.
    """
    if len(users) == 0:
        return {}, {}
    _, first = np.unique(users, return_index=True)
    cuts = np.quantile(training_rows[first], [1 / 3, 2 / 3], method="lower")
    third = np.searchsorted(cuts, training_rows, side="left")
    masks = {name: third == place for place, name in enumerate(HISTORY_SLICES)}
    masks = {name: mask for name, mask in masks.items() if mask.any() and not mask.all()}
    ends = {name: (training_rows[mask].min(), training_rows[mask].max()) for name, mask in masks.items()}
    return masks, {name: f"{low:,} to {high:,}" if high > low else f"{low:,}" for name, (low, high) in ends.items()}


def _known(surface: Surface, scores: Scores, teacher_outputs: Mapping[str, str]) -> Scores:
    """Return the scores that count: of the surface's tasks, and of outputs that the teacher's contract has."""

    def counts(model: str, task: str) -> bool:
        if task not in surface.tasks:
            return task == RANK_TASK
        return model != "teacher" or surface.tasks[task].teacher_output in teacher_outputs

    values = {key: values for key, values in scores.values.items() if counts(key[1], key[2])}
    return replace(scores, values=values)


def _conditions(lake: Lake, surface: Surface) -> list[str]:
    """Return the SQL of each slice's condition, whose columns the examples have.

    Raises:
        PredictionError: It names another one.
    """
    columns = {column.lower() for column in lake.columns(f"{FEATURES}.examples_{surface.name}")}
    found = []
    for name, text in surface.slices.items():
        stated = condition(text)
        if strange := [column for column in sorted(stated.columns) if column.lower() not in columns]:
            near = ", ".join(get_close_matches(strange[0], columns)) or f"one of {', '.join(sorted(columns))}"
            raise PredictionError(
                f"surface {surface.name}, slices.{name}: {text!r} names {strange[0]!r}, which is no column of its "
                f"examples; is {near} meant?"
            )
        found.append(stated.sql)
    return found


def _rows(lake: Lake, surface: Surface, partition: date, days: Sequence[date]) -> pa.Table:
    """Return labels and slices of the evaluation rows, each by its place, in the order of exposure_id.

    A list to rank is a session; of rows without one, a user's day. ``training_rows`` counts the user's rows on the
    training days.
    """
    learnt = surface.training_days(partition)
    table = f"{ALIAS}.{FEATURES}.examples_{surface.name}"
    labels = ", ".join(f"{quoted(task.label)}::double as label_{i}" for i, task in enumerate(surface.tasks.values()))
    conditions = _conditions(lake, surface)
    slices = "".join(f", coalesce(({sql}), false) as slice_{i}" for i, sql in enumerate(conditions))
    return lake.sql(
        f"""
        with examples as (
            select exposure_id, user_id, {labels}{slices},
                dense_rank() over (
                    order by session_id, if(session_id is null, user_id, null), if(session_id is null, day, null)
                ) as list
            from {table} where day between ? and ?
        ), history as (
            select user_id, count(*) as training_rows from {table} where day between ? and ? group by user_id
        )
        select * exclude (training_rows), coalesce(training_rows, 0) as training_rows
        from examples left join history using (user_id) order by exposure_id
        """,
        [days[0], days[-1], learnt[0], learnt[-1]],
    )
