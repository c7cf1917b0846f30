"""Guard: scores and rankings do not jump against the champion."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, TypedDict

from checks import gx
from checks.guard import FIRST, Found, Guard, Subject
from ml.evaluation.outcome import Outcome
from ml.evaluation.rows import newest_first
from ml.foundation.lake import Lake
from ml.releases.verdicts import Check
from ml.surfaces.gate import ShiftGate
from ml.surfaces.spec import Surface

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

    from ml.inference.model import Model

REPLICATES = 400


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
    if champion.release.manifest.kind == "popularity":
        told = "what serves ranks by popularity: another score is what is wanted of a ranker"
        return [Check(name="champion", outcome=Outcome.WARN, value="popularity", detail=told)], ""
    if not subject.is_export:
        raise ValueError("the candidate is not what its checkpoint exports to: it is not run")
    gate, days = subject.surface.gate.shift, subject.manifest.eval_days
    candidate, serving = load_model(subject.candidate.path), load_model(champion.release.path)
    rows = measure(subject.evaluated, subject.surface, candidate, serving, days, top=gate.top)
    return gx.validate(rows, suite(gate, rows)), ""


def measure(
    lake: Lake, surface: Surface, candidate: "Model", champion: "Model", days: Sequence[date], *, top: int
) -> list[ShiftRow]:
    """Score the rows of some days with both models, inputs as when serving.

    Args:
        lake: The lake, or a snapshot of it.
        surface: The surface.
        candidate: Model to judge.
        champion: Model that serves.
        days: Days to take rows from.
        top: Places of a user's ranking that are compared.

    Returns:
        Rows of ``measure`` (``psi`` or ``top_overlap``), ``output``, ``measured`` and ``n`` (rows, or users), and of
        each labelled task the ends of the interval of its loss less the champion's, ``loss_low`` and ``loss_high``.

    Raises:
        ValueError: The days have no rows.
        ColumnError: The champion takes an input that the examples no longer have.
    """
    import numpy as np

    from ml.evaluation.shift import psi, top_overlap
    from ml.inference.model import SCORE

    table, new, old = _scored(lake, surface, candidate, champion, days)
    found: list[ShiftRow] = [
        {"measure": "psi", "output": name, "measured": psi(old[name], new[name]), "n": table.num_rows}
        for name in new
        if name in old
    ]
    overlap, users = top_overlap(old[SCORE], new[SCORE], np.asarray(table["user_id"]), top)
    found.append({"measure": "top_overlap", "output": SCORE, "measured": overlap, "n": users})
    return [*found, *_losses(surface, table, old, new)]


def _scored(
    lake: Lake, surface: Surface, candidate: "Model", champion: "Model", days: Sequence[date]
) -> "tuple[pa.Table, dict[str, np.ndarray], dict[str, np.ndarray]]":
    """Return users and labels of the rows, and what both models say of them; nothing else of a row is kept."""
    import numpy as np
    import pyarrow as pa

    from ml.students.columns import to_arrays

    models = (candidate, champion)
    kept = {"user_id", *(task.label for task in surface.tasks.values())}
    wanted = kept.union(*(model.schema.inputs for model in models))
    batches: list[pa.RecordBatch] = []
    scores: list[tuple[dict[str, np.ndarray], ...]] = []
    for batch in newest_first(lake, surface, days, wanted):
        scores.append(tuple(model.run(to_arrays(batch, model.schema.inputs, "serving")) for model in models))
        batches.append(batch.select([name for name in batch.schema.names if name in kept]))
    new, old = (
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*scores, strict=True)
    )
    return pa.Table.from_batches(batches), new, old


def _losses(
    surface: Surface, table: "pa.Table", old: Mapping[str, "np.ndarray"], new: Mapping[str, "np.ndarray"]
) -> Iterator[ShiftRow]:
    """Yield the interval over users of each task's loss less the champion's; log loss, or square error."""
    import numpy as np
    import pyarrow as pa

    from ml.evaluation.bootstrap import UserWeights, interval
    from ml.evaluation.metrics import log_losses

    weights = UserWeights(table["user_id"].fill_null(0).to_numpy(), seed=0, replicates=REPLICATES)
    for name, task in surface.tasks.items():
        if name not in old or name not in new or task.label not in table.column_names:
            continue
        labels = table[task.label].cast(pa.float64()).to_numpy()
        known = np.isfinite(labels)
        if not known.any():
            continue
        y, codes = labels[known], weights.codes[known]
        mine, theirs = (
            log_losses(y, scores[name][known]) if task.kind == "binary" else (y - scores[name][known]) ** 2
            for scores in (new, old)
        )
        [replicates] = weights.replicate([weights.mean(codes, mine - theirs)])
        ends, users = interval(float((mine - theirs).mean()), replicates), len(np.unique(codes))
        yield {"measure": "loss_low", "output": name, "measured": ends.lo, "n": users}
        yield {"measure": "loss_high", "output": name, "measured": ends.hi, "n": users}


def explained(gate: ShiftGate, rows: Sequence[ShiftRow]) -> frozenset[str]:
    """Return the outputs whose shift the labels explain.

    That is each task whose loss is better than the champion's by its interval, over ``min_users`` users; and the score,
    where there is such a task and no task's loss is worse by its interval.
    """
    from ml.inference.model import SCORE

    losses = [row for row in rows if row["measure"] in ("loss_low", "loss_high")]
    better = {
        row["output"]
        for row in losses
        if row["measure"] == "loss_high" and row["measured"] < 0 and row["n"] >= gate.min_users
    }
    worse = any(row["measure"] == "loss_low" and row["measured"] > 0 for row in losses)
    return frozenset(better | ({SCORE} if better and not worse else set()))


def suite(gate: ShiftGate, rows: Sequence[ShiftRow]) -> "ExpectationSuite":
    """Return the suite over ``measure``: a large shift fails unless the labels explain it, a moderate one warns."""
    from great_expectations.expectations.metadata_types import FailureSeverity

    from checks.expectations.measured import ExpectMeasureBetween

    expected: list[Expectation] = []
    told = explained(gate, rows)
    for row in rows:
        where = {"measure": row["measure"], "output": row["output"]}
        common = {"column": "measured", "where": where, "count": "n"}
        blocking = FailureSeverity.WARNING if row["output"] in told else FailureSeverity.CRITICAL
        if row["measure"] == "psi":
            name = f"psi_{row['output']}"
            most = {"min_value": 0, "max_value": gate.max_psi, "severity": blocking}
            expected.append(ExpectMeasureBetween(**common, **most, **gx.named(name, gx.between(high=gate.max_psi))))
            least = {"min_value": 0, "max_value": gate.warn_psi, "severity": FailureSeverity.WARNING}
            named = gx.named(f"{name}_is_small", gx.between(high=gate.warn_psi))
            expected.append(ExpectMeasureBetween(**common, **least, **named))
        elif row["measure"] != "top_overlap":
            continue
        elif row["n"] < gate.min_users:
            bounds = {"column": "n", "where": where, "min_value": gate.min_users, "severity": FailureSeverity.WARNING}
            named = gx.named("users_with_enough_rows", gx.between(gate.min_users))
            expected.append(ExpectMeasureBetween(count="n", **bounds, **named))
        else:
            named = gx.named(f"top_{gate.top}_overlap", gx.between(gate.min_overlap))
            least = {"min_value": gate.min_overlap, "max_value": 1, "severity": blocking}
            expected.append(ExpectMeasureBetween(**common, **least, **named))
    return gx.suite("shift", expected)


GUARD = Guard(
    number=6,
    name="score_shift",
    means="Scores and rankings do not jump against the champion, unless the labels of the same rows explain it.",
    to_do="rankings would change at once for users: look for an input that jumped. If the change is wanted, a person "
    "says so with `crossfade release override`. A jump only warns where the loss on the same rows is better than the "
    "champion's by its interval, and so do too few users to compare rankings.",
    judge=judge,
    silent="first",
)
