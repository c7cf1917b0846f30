"""Figures of what was really served: inputs against the training rows, scores against labels and the evaluation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy.special import expit

from ml.evaluation.bootstrap import UserWeights, effective_users, interval
from ml.evaluation.served_kinds import CALIBRATION, SHIFT, UNEQUAL
from ml.evaluation.shift import psi

REPLICATES = 400

SCHEMA = pa.schema(
    [
        ("day", pa.date32()),
        ("kind", pa.string()),
        ("name", pa.string()),
        ("of", pa.string()),
        ("value", pa.float64()),
        ("lo", pa.float64()),
        ("hi", pa.float64()),
        ("n", pa.int64()),
        ("users", pa.int64()),
        ("effective_users", pa.float64()),
    ]
)
"""One row per figure of a day; ``of`` tells those of a name apart: an input's kind, a release, or a position."""


class Figure(NamedTuple):
    """One figure; ``lo``, ``hi`` and users are None where there is no interval."""

    kind: str
    name: str
    of: str
    value: float
    n: int
    lo: float | None = None
    hi: float | None = None
    users: int | None = None
    effective_users: float | None = None


@dataclass
class Unequal:
    """Counts the values of inputs that are not those of the training rows."""

    rows: dict[str, int] = field(default_factory=dict)
    unequal: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, served: np.ndarray, trained: np.ndarray) -> None:
        """Count some values [n] or [n, length] of an input; two that are no number are equal."""
        unequal = served != trained
        if served.dtype.kind == "f":
            unequal &= np.isfinite(served) | np.isfinite(trained)
        rows = unequal if unequal.ndim == 1 else unequal.any(axis=1)
        self.rows[name] = self.rows.get(name, 0) + len(served)
        self.unequal[name] = self.unequal.get(name, 0) + int(np.count_nonzero(rows))

    def figures(self, kinds: Mapping[str, str]) -> list[Figure]:
        """Return the share of unequal values of each input; ``kinds`` has its kind."""
        return [
            Figure(UNEQUAL, name, kinds[name], self.unequal[name] / n if n else math.nan, n)
            for name, n in self.rows.items()
        ]


def calibration(
    task: str, of: str, users: np.ndarray, logits: np.ndarray, labels: np.ndarray, seed: int
) -> Figure | None:
    """Return predicted over observed positives of a binary task, with a 95 % interval over users; None without rows.

    Args:
        task: Its name.
        of: Where ``after_ranking`` inputs stood.
        users: User of each row [n].
        logits: Raw outputs [n]; rows where it is no number do not count.
        labels: 0 or 1 [n]; rows where it is no number do not count.
        seed: Of the bootstrap.
    """
    known = np.isfinite(labels) & np.isfinite(logits)
    users, predicted, labels = users[known], expit(logits[known].astype(np.float64)), labels[known]
    if not len(users):
        return None
    observed = float(labels.sum())
    value = float(predicted.sum()) / observed if observed else math.nan
    weights = UserWeights(users, seed=seed, replicates=REPLICATES)
    [replicates] = weights.replicate([weights.ratio(weights.codes, predicted, labels)])
    count = effective_users(weights.codes)
    found = interval(value, replicates, count)
    lo, hi = (found.lo, found.hi) if math.isfinite(found.lo) and math.isfinite(found.hi) else (None, None)
    return Figure(CALIBRATION, task, of, value, len(users), lo, hi, weights.users, count)


def shift(output: str, release: str, reference: np.ndarray, served: np.ndarray) -> Figure | None:
    """Return the stability index of a release's scores [m] against those [n] of its evaluation; None without either."""
    served = served[np.isfinite(served)]
    if not len(reference) or not len(served):
        return None
    return Figure(SHIFT, output, release, psi(reference, served), len(served))


def as_table(day: date, figures: Sequence[Figure]) -> pa.Table:
    """Return the figures of a day as rows of ``SCHEMA``; what is no number is null."""
    rows = [
        {"day": day, **figure._asdict(), "value": figure.value if math.isfinite(figure.value) else None}
        for figure in figures
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
