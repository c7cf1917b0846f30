"""Guard: scores and rankings do not jump against the champion."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, TypedDict

from checks import gx
from checks.guard import FIRST, Found, Guard, Subject
from ml.evaluation.rows import newest_rows
from ml.foundation.lake import Lake
from ml.surfaces.spec import ShiftGate, Surface

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

    from ml.inference.model import Model

MAX_ROWS = 50_000
"""Rows of the evaluation days that are scored, the newest; bounds memory."""


class ShiftRow(TypedDict):
    """One measure of one output."""

    measure: str
    output: str
    measured: float
    n: int


def judge(subject: Subject) -> Found:
    """Judge the candidate's scores of the evaluation days beside the champion's."""
    from ml.inference.probe import load_model

    champion = subject.champion()
    if champion is None:
        return [], FIRST
    gate, days = subject.surface.gate.shift, subject.manifest.eval_days
    candidate, serving = load_model(subject.candidate.path), load_model(champion.release.path)
    rows = measure(subject.past, subject.surface, candidate, serving, days, top=gate.top)
    return gx.validate(rows, suite(gate, rows)), ""


def measure(
    lake: Lake, surface: Surface, candidate: "Model", champion: "Model", days: Sequence[date], *, top: int
) -> list[ShiftRow]:
    """Score the newest rows of some days with both models, inputs as when serving.

    Args:
        lake: The lake, or a snapshot of it.
        surface: The surface.
        candidate: Model to judge.
        champion: Model that serves.
        days: Days to take rows from.
        top: Places of a user's ranking that are compared.

    Returns:
        Rows of ``measure`` (``psi`` or ``top_overlap``), ``output``, ``measured`` and ``n`` (rows, or users).

    Raises:
        ValueError: The days have no rows.
        ColumnError: The champion takes an input that the examples no longer have.
    """
    from ml.evaluation.shift import psi, top_overlap
    from ml.inference.model import SCORE
    from ml.students.columns import to_arrays

    table = newest_rows(lake, surface, days, limit=MAX_ROWS)
    new, old = (model.run(to_arrays(table, model.schema.inputs, "serving")) for model in (candidate, champion))
    found: list[ShiftRow] = [
        {"measure": "psi", "output": name, "measured": psi(old[name], new[name]), "n": table.num_rows}
        for name in new
        if name in old
    ]
    overlap, users = top_overlap(old[SCORE], new[SCORE], table["user_id"].to_numpy(), top)
    return [*found, {"measure": "top_overlap", "output": SCORE, "measured": overlap, "n": users}]


def suite(gate: ShiftGate, rows: Sequence[ShiftRow]) -> "ExpectationSuite":
    """Return the suite over ``measure``: a large shift fails, a moderate one warns."""
    from great_expectations.expectations.metadata_types import FailureSeverity

    from checks.expectations.measured import ExpectMeasureBetween

    expected: list[Expectation] = []
    for row in rows:
        where = {"measure": row["measure"], "output": row["output"]}
        common = {"column": "measured", "where": where, "count": "n"}
        if row["measure"] == "psi":
            name = f"psi_{row['output']}"
            most = {"min_value": 0, "max_value": gate.max_psi}
            expected.append(ExpectMeasureBetween(**common, **most, **gx.named(name, gx.between(high=gate.max_psi))))
            least = {"min_value": 0, "max_value": gate.warn_psi, "severity": FailureSeverity.WARNING}
            named = gx.named(f"{name}_is_small", gx.between(high=gate.warn_psi))
            expected.append(ExpectMeasureBetween(**common, **least, **named))
        elif row["n"] < gate.min_users:
            bounds = {"column": "n", "where": where, "min_value": gate.min_users, "severity": FailureSeverity.WARNING}
            named = gx.named("users_with_enough_rows", gx.between(gate.min_users))
            expected.append(ExpectMeasureBetween(count="n", **bounds, **named))
        else:
            named = gx.named(f"top_{gate.top}_overlap", gx.between(gate.min_overlap))
            expected.append(ExpectMeasureBetween(**common, min_value=gate.min_overlap, max_value=1, **named))
    return gx.suite("shift", expected)


GUARD = Guard(
    number=6,
    name="score_shift",
    means="Scores and rankings do not jump against the champion.",
    to_do="rankings would change at once for users: look for an input that jumped. If the change is wanted, a person "
    "says so with `crossfade release override`. Too few users to compare rankings only warn.",
    judge=judge,
)
