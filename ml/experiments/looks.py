"""An experiment looked at every day since its start: what each day may say, and when it is decided."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import pyarrow as pa

from ml.experiments.analysis import where
from ml.experiments.lift import EXPECTED_LIFT, Lift, covariates, paired_lift, split_lift
from ml.experiments.sample_ratio import SampleRatio, sample_ratio
from ml.experiments.user_days import METRICS

SPLIT = "split"


@dataclass(frozen=True)
class Look:
    """What all days through one say of one figure.

    Attributes:
        metric: One of ``METRICS``.
        variant: Compared with the baseline.
        estimate: ``split``, or one in which both variants answered.
        day: The last day that counts.
        users: Users so far, of both variants.
        lift: The difference.
        lo: Lower end of the 95 % interval that holds at every look, relative.
        hi: Its upper end.
        variance_left: Share of the variance that what was known before leaves; 1 where nothing was.
    """

    metric: str
    variant: str
    estimate: str
    day: date
    users: int
    lift: Lift
    lo: float
    hi: float
    variance_left: float

    @property
    def decided(self) -> bool:
        """Whether the interval that holds at every look leaves 0 out."""
        return not self.lo <= 0 <= self.hi


@dataclass(frozen=True)
class Looks:
    """Every look at one experiment of a surface.

    Attributes:
        baseline: What the variants are compared with.
        days: From the start, oldest first.
        ratio: How the users were split; None where all variants answer everybody.
        looks: By variant, estimate, metric and day. Empty where the split is wrong: no figure counts then.
    """

    baseline: str
    days: list[date]
    ratio: SampleRatio | None
    looks: list[Look]

    def last(self) -> list[Look]:
        """Return the last look at each figure."""
        return list({(look.variant, look.estimate, look.metric): look for look in self.looks}.values())

    def decided_on(self, look: Look) -> date | None:
        """Return the first day on which that figure was decided."""
        same = (look.variant, look.estimate, look.metric)
        return next((k.day for k in self.looks if (k.variant, k.estimate, k.metric) == same and k.decided), None)


@dataclass(frozen=True)
class Panel:
    """What users did day by day.

    Attributes:
        users: Ids, sorted, int64 [n].
        days: Oldest first.
        requests: Through each day, float64 [n, days].
        values: By metric, through each day, float64 [n, days].
    """

    users: np.ndarray
    days: list[date]
    requests: np.ndarray
    values: dict[str, np.ndarray]

    @classmethod
    def of(cls, rows: pa.Table, days: list[date], users: np.ndarray | None = None) -> "Panel":
        """Sum rows with ``day``, ``user_id``, ``requests`` and ``METRICS`` from the first of ``days`` on.

        Args:
            rows: Of these days alone.
            days: Oldest first.
            users: Whom to list, sorted; those of the rows by default.
        """
        ids = rows["user_id"].to_numpy()
        users = np.unique(ids) if users is None else users
        places = {day: k for k, day in enumerate(days)}
        at = np.searchsorted(users, ids), np.array([places[day] for day in rows["day"].to_pylist()], dtype=np.int64)

        def through(name: str) -> np.ndarray:
            sums = np.zeros((len(users), len(days)))
            np.add.at(sums, at, rows[name].to_numpy().astype(np.float64))
            return sums.cumsum(axis=1)

        return cls(users, days, through("requests"), {metric: through(metric) for metric in METRICS})

    @cached_property
    def asked(self) -> np.ndarray:
        """Whether the user has asked through each day, bool [n, days]."""
        return self.requests > 0

    def before(self, history: pa.Table | None) -> dict[str, np.ndarray]:
        """Return {metric: covariates [n, 3]} from what users did before; none without it.

        Args:
            history: With ``user_id``, ``requests`` and ``METRICS``, a row per user or several.
        """
        if history is None or not len(history):
            return {}
        ids = history["user_id"].to_numpy()
        place = np.searchsorted(self.users, ids).clip(max=max(len(self.users) - 1, 0))
        known = self.users[place] == ids if len(self.users) else np.zeros(len(ids), dtype=bool)

        def summed(name: str) -> np.ndarray:
            return np.bincount(place[known], history[name].to_numpy()[known].astype(np.float64), len(self.users))

        return {metric: covariates(summed(metric), summed("requests")) for metric in METRICS}


def look_daily(
    rows: pa.Table,
    baseline: str,
    history: pa.Table | None = None,
    *,
    shares: Mapping[str, float] | None = None,
    expected: float = EXPECTED_LIFT,
) -> Looks:
    """Look at an experiment on each of its days.

    Args:
        rows: One world's, from the start on: ``arm``, ``estimate``, ``day``, ``user_id``, ``requests``, ``METRICS``.
        baseline: Name of the baseline variant.
        history: What users did before the start: ``user_id``, ``requests``, ``METRICS``.
        shares: Share of the users that each variant should have; even without it.
        expected: Relative difference for which intervals are narrowest, fixed before the start.
    """
    days = sorted(rows["day"].unique().to_pylist())
    estimates = sorted(rows["estimate"].unique().to_pylist(), reverse=True)
    ratio, found = None, []
    for estimate in estimates:
        part = where(rows, estimate=estimate)
        arms = {arm: where(part, arm=arm) for arm in sorted(part["arm"].unique().to_pylist())}
        if baseline not in arms or len(arms) < 2:
            continue
        if estimate == SPLIT:
            arms, ratio = _alone(arms, shares)
            if ratio.refused:
                return Looks(baseline, days, ratio, [])
        base = arms.pop(baseline)
        for variant, treated in arms.items():
            found += _looks(base, treated, days, history, (variant, estimate, expected))
    return Looks(baseline, days, ratio, found)


def _alone(arms: dict[str, pa.Table], shares: Mapping[str, float] | None) -> tuple[dict[str, pa.Table], SampleRatio]:
    """Return the rows of users who met one variant, and how many users each variant has."""
    ids = {arm: np.unique(rows["user_id"].to_numpy()) for arm, rows in arms.items()}
    every, met = np.unique(np.concatenate(list(ids.values())), return_counts=True)
    several = every[met > 1]
    alone = {
        arm: rows.filter(pa.array(~np.isin(rows["user_id"].to_numpy(), several))) if len(several) else rows
        for arm, rows in arms.items()
    }
    counts = {arm: len(np.setdiff1d(users, several)) for arm, users in ids.items()}
    return alone, sample_ratio(counts, shares, len(several))


def _looks(
    base: pa.Table, treated: pa.Table, days: list[date], history: pa.Table | None, names: tuple[str, str, float]
) -> list[Look]:
    variant, estimate, expected = names
    users = np.unique(np.concatenate([base["user_id"].to_numpy(), treated["user_id"].to_numpy()]))
    panels = [Panel.of(rows, days, users) for rows in (treated, base)]
    before = panels[0].before(history) if estimate == SPLIT else {}
    found: list[Look] = []
    for metric in METRICS:
        for k, day in enumerate(days):
            asked = panels[0].asked[:, k] | panels[1].asked[:, k]
            values = [panel.values[metric][asked, k] for panel in panels]
            requests = [panel.requests[asked, k] for panel in panels]
            left = 1.0
            if estimate == SPLIT:
                sides = panels[0].asked[asked, k], values[0] + values[1], requests[0] + requests[1]
                plain = lift = split_lift(*sides)
                if metric in before and plain and (lift := split_lift(*sides, before[metric][asked])):
                    left = (lift.se / plain.se) ** 2
            else:
                lift = paired_lift(*values, requests[1])
            if lift:
                lo, hi = lift.at_every_look(expected)
                found.append(Look(metric, variant, estimate, day, int(asked.sum()), lift, lo, hi, left))
    return found
