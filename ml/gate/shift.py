"""How far a candidate's scores and rankings lie from the champion's on the same rows."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np

from ml.gate.data import example_rows
from ml.lake import Lake
from ml.serving.model import SCORE, Model
from ml.surfaces.spec import Surface

BINS = 10
MAX_ROWS = 50_000
"""Rows of the evaluation days that are scored, the newest; bounds memory."""

_LEAST_SHARE = 1e-4


def psi(reference: np.ndarray, scores: np.ndarray, bins: int = BINS) -> float:
    r"""Return the population stability index of ``scores`` [m] against ``reference`` [n].

    .. math:: \sum_b (q_b - p_b) \ln(q_b / p_b)

    over bins of equal mass in the reference, with its shares p and the scores' shares q, neither below 1e-4. Below 0.1
    is usually called stable, above 0.25 a shift. Ties share a bin. Any monotone map of both leaves it as it is.

    Source: Siddiqi, "Credit Risk Scorecards" (2005); Yurdakul and Naranjo, J. Risk Model Validation 14 (2020).
    """
    edges = np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1])
    shares = [
        np.clip(np.bincount(np.searchsorted(edges, values), minlength=bins) / len(values), _LEAST_SHARE, None)
        for values in (reference, scores)
    ]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def top_overlap(reference: np.ndarray, scores: np.ndarray, groups: np.ndarray, top: int) -> tuple[float, int]:
    """Return the mean share of a group's ``top`` rows that both orders have in common, and the number of groups.

    Args:
        reference: Score [n]; higher ranks first, equal ones in the order of the rows.
        scores: Score [n] to compare.
        groups: Group of each row [n]; those with fewer than two rows per place are left out.
        top: Places that count.

    Returns:
        The mean in [0, 1], NaN without a group, and the groups that counted.
    """
    _, code, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    best = [_is_top(values, code, top) for values in (reference, scores)]
    common = np.bincount(code, weights=best[0] & best[1], minlength=len(sizes)) / top
    counted = sizes >= 2 * top
    return (float(common[counted].mean()) if counted.any() else float("nan")), int(counted.sum())


def measure_shift(
    lake: Lake, surface: Surface, candidate: Model, champion: Model, days: Sequence[date], *, top: int
) -> list[dict[str, Any]]:
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
    from ml.students.columns import to_arrays

    table = example_rows(lake, surface, days, order="ts desc, exposure_id", limit=MAX_ROWS)
    new, old = (model.run(to_arrays(table, model.schema.inputs, "serving")) for model in (candidate, champion))
    found: list[dict[str, Any]] = [
        {"measure": "psi", "output": name, "measured": psi(old[name], new[name]), "n": table.num_rows}
        for name in new
        if name in old
    ]
    overlap, users = top_overlap(old[SCORE], new[SCORE], table["user_id"].to_numpy(), top)
    return [*found, {"measure": "top_overlap", "output": SCORE, "measured": overlap, "n": users}]


def _is_top(scores: np.ndarray, code: np.ndarray, top: int) -> np.ndarray:
    order = np.lexsort((np.arange(len(scores)), -scores, code))
    sorted_code = code[order]
    first = np.r_[True, sorted_code[1:] != sorted_code[:-1]]
    place = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    found = np.empty(len(order), dtype=bool)
    found[order] = place < top
    return found
