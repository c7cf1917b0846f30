"""Pairs that nobody was shown, in a training set: which they are, and their rows."""

from collections.abc import Sequence
from datetime import date

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ml.features.unshown import UnshownError, drawn_by, unshown_table
from ml.foundation.lake import Lake, escaped, quoted
from ml.students.columns import to_arrays
from ml.surfaces.spec import Surface
from ml.teacher.labels import named_labels, unshown_rows
from ml.teacher.teachers import LabelsOf, other_teachers

_BATCH_ROWS = 65_536


class UnshownSet(BaseModel):
    """The identity of the pairs of a training set: a query at its snapshot.

    Attributes:
        drawn_by: The rule that drew them.
        rows: Pairs per training day that has any.
        coverage: Share of these that the teacher labelled.
        content_hash: Order-free hash of all rows, labels included.
        query: The query whose rows these are, days and teacher filled in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    drawn_by: str
    rows: dict[date, int]
    coverage: dict[date, float]
    content_hash: str
    query: str

    @property
    def days(self) -> list[date]:
        """Days that have pairs, oldest first."""
        return sorted(self.rows)


def learns_unshown(surface: Surface, technique: str) -> bool:
    """Return whether a ranker of this technique learns pairs that nobody was shown."""
    distillation = surface.distillation
    return distillation.unshown is not None and technique == distillation.technique and distillation.rules.branch


def joined(labels: Sequence[LabelsOf], table: str, rows: str, key: str) -> tuple[list[str], str]:
    """Return the columns of each teacher's scores, and the joins that bring them by ``day`` and ``key`` of ``rows``."""
    columns: list[str] = []
    joins = ""
    for place, (column, of) in enumerate(scores_of(labels).items(), 1):
        name = "s" if place == 1 else f"s{place}"
        columns.append(f"{name}.scores" if place == 1 else f"{name}.scores as {column}")
        joins += (
            f" left join {table} as {name} on {name}.{key} = {rows}.{key} and {name}.day = {rows}.day"
            f" and {name}.teacher_version = '{escaped(of.version)}'"
            f" and {name}.contract_hash = '{escaped(of.contract_hash)}'"
        )
    return columns, joins


def scores_of(labels: Sequence[LabelsOf]) -> dict[str, LabelsOf]:
    """Return {column of joined rows that holds a teacher's scores: whose they are}."""
    return {"scores" if place == 1 else f"scores_{place}": of for place, of in enumerate(labels, 1)}


def scores_matrix(scores: pa.Array, outputs: int) -> np.ndarray:
    """Return lists of scores as float64 [n, outputs], NaN where there is no list."""
    present = scores.is_valid()
    matrix = np.full((len(scores), outputs), np.nan)
    flat = scores.filter(present).flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
    matrix[present.to_numpy(zero_copy_only=False)] = flat.reshape(-1, outputs)
    return matrix


def query_of(surface: Surface, labels: Sequence[LabelsOf], days: Sequence[date]) -> str:
    """Return the query of the pairs of some days with the labels of some teachers."""
    wanted = ", ".join(f"date '{day}'" for day in sorted(set(days)))
    inputs = ", ".join(f"u.{quoted(name)}" for name in surface.branch_inputs)
    scores, joins = joined(labels, unshown_rows(surface.name).labels, "u", "pair_id")
    return (
        f"select u.day, u.pair_id, u.exposure_id, u.ts as _ts, {inputs}, {', '.join(scores)} "
        f"from {unshown_table(surface.name)} as u{joins} "
        f"where u.day in ({wanted})"
    )


def identify(lake: Lake, surface: Surface, days: Sequence[date], labels: Sequence[LabelsOf]) -> UnshownSet:
    """Fix the pairs of some training days.

    Args:
        lake: The lake at the training set's snapshot.
        surface: Declares the pairs.
        days: Training days with exposures.
        labels: Whose labels are learnt, one entry a teacher.

    Raises:
        UnshownError: A day has no pairs, ones of another rule or without an input of the branch, or labels that are
            missing, of another width or of several versions of a teacher.
    """
    asset, rule = f"{surface.name}/unshown_labels", str(surface.distillation.unshown)
    table, of_pairs = unshown_table(surface.name), unshown_rows(surface.name).labels
    for name in (table, of_pairs):
        if not lake.table_exists(name):
            raise UnshownError(f"there is no table {name}: materialize {asset} of {_span(days)}")
    rules = drawn_by(lake, surface.name, days)
    if missing := [day for day in days if day not in rules]:
        raise UnshownError(
            f"no pair that nobody was shown on {_span(missing)}: materialize {asset}, or leave distillation.unshown "
            "out where users are shown every item"
        )
    if others := {day: found for day, found in rules.items() if found != {rule}}:
        found = ", ".join(sorted(set().union(*others.values())))
        raise UnshownError(
            f"pairs of {_span(list(others))} were drawn by {found!r}, not by {rule!r} as the surface declares: "
            f"materialize {asset}"
        )
    if lost := [name for name in surface.branch_inputs if name not in lake.columns(table)]:
        raise UnshownError(f"{table} has no column {lost[0]!r}, which the branch reads: materialize {asset}")
    query = query_of(surface, labels, days)
    found = [_count(lake, of_pairs, query, asset, column, of) for column, of in scores_of(labels).items()]
    rows = found[0][0]
    coverage = {day: min(share[day] for _, share in found) for day in rows}
    _, content_hash = lake.content_hash(f"({query})")
    return UnshownSet(drawn_by=rule, rows=rows, coverage=coverage, content_hash=content_hash, query=query)


def _count(
    lake: Lake, table: str, query: str, asset: str, column: str, of: LabelsOf
) -> tuple[dict[date, int], dict[date, float]]:
    """Return pairs, and the share of them that a teacher labelled, per day; refuse labels that are not all of it."""
    beside = other_teachers(lake.settings, of.teacher)
    counts = lake.connection.execute(
        f"""select q.day, count(*), count(distinct q.pair_id), count(q.{column}), min(len(q.{column})),
            max(len(q.{column})), count(o.pair_id) filter (where q.{column} is null)
        from ({query}) as q
        left join (
            select distinct day, pair_id from {named_labels(lake, table)}
            where teacher is null or not list_contains(?::varchar[], teacher)
        ) as o on o.day = q.day and o.pair_id = q.pair_id
        group by q.day order by q.day""",
        [beside],
    ).fetchall()
    whose, outputs = f"teacher {of.teacher}" if of.teacher else "this teacher", len(of.outputs)
    for day, joined_rows, distinct, labelled, low, high, others in counts:
        if joined_rows != distinct:
            raise UnshownError(f"{joined_rows - distinct} pairs of {day} have several labels: materialize {asset}")
        if others or not labelled:
            told = f"{others} of another teacher" if others else "none"
            raise UnshownError(f"{joined_rows - labelled} pairs of {day} have no label of {whose}, {told}: see {asset}")
        if (low, high) != (outputs, outputs):
            raise UnshownError(f"labels of {low} to {high} outputs on {day}, not {outputs}")
    return {row[0]: row[1] for row in counts}, {row[0]: row[3] / row[1] for row in counts}


def read_pairs(lake: Lake, surface: Surface, query: str, labels: Sequence[LabelsOf]) -> dict[str, Tensor]:
    """Read pairs, in the order of the exposures that they belong to.

    Args:
        lake: The lake at the training set's snapshot.
        surface: The surface.
        query: As ``query_of`` returns it.
        labels: Whose labels the query brings, one entry a teacher.

    Returns:
        {branch input: [m] or [m, length]}, ``:scores`` float32 [m, outputs of all teachers], NaN where missing, and
        ids ``:pair_id`` and ``:exposure_id``, int64 [m]; empty where there are no pairs.
    """
    inputs = {name: surface.inputs[name] for name in surface.branch_inputs}
    parts: dict[str, list[np.ndarray]] = {}
    for batch in lake.batches(f"{query} order by u.ts, u.exposure_id, u.pair_id", rows=_BATCH_ROWS):
        scores = [scores_matrix(batch.column(column), len(of.outputs)) for column, of in scores_of(labels).items()]
        matrix = np.concatenate(scores, axis=1).astype(np.float32)
        found = {":scores": matrix, **{f":{n}": batch.column(n).to_numpy() for n in ("pair_id", "exposure_id")}}
        for name, array in {**found, **to_arrays(batch, inputs, "logged")}.items():
            parts.setdefault(name, []).append(array)
    return {name: torch.from_numpy(np.concatenate(arrays)) for name, arrays in parts.items()}


def _span(days: Sequence[date]) -> str:
    return f"{min(days)} to {max(days)}" if len(days) > 1 else str(days[0])
