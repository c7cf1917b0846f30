"""What an experiment would find, before it starts: from days that landed without one.

The last days stand for the experiment's, those before for what is known of its users. Longer experiments than were
measured are extrapolated: the squared error falls to a floor, a + b / days, since users come back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
from scipy.optimize import nnls

from ml.experiments.landed import HISTORY_DAYS, user_days
from ml.experiments.lift import detectable, even_split_error, split_lift
from ml.experiments.looks import Panel
from ml.foundation.lake import Lake
from ml.surfaces.spec import Surface

LONGEST = 84
"""Days beyond which nothing is extrapolated."""

AA_RUNS = 200
_MIN_MEASURED = 2


class NothingToPlanFrom(ValueError):
    """Too few days or users landed; the message says what is there."""


@dataclass(frozen=True)
class Horizon:
    """An experiment of some days with an even split.

    Attributes:
        days: How long.
        users: Users in all, of both variants; None where the days are extrapolated.
        once: Smallest relative difference found with 80 % power by one look at the end.
        daily: The same by intervals that hold at every look.
        once_before: As ``once``, with what users did before the start.
        daily_before: As ``daily``, with what users did before the start.
    """

    days: int
    users: int | None
    once: float
    daily: float
    once_before: float
    daily_before: float


@dataclass(frozen=True)
class Planned:
    """What an experiment on one figure would find.

    Attributes:
        metric: The figure.
        days: Landed days that stood for an experiment's.
        history_days: Landed days before these.
        expected: Relative difference that should be found.
        horizons: By rising days.
        false_alarms: Of ``AA_RUNS`` random splits of the landed users without any difference, those whose daily looks
            found one on some day.
    """

    metric: str
    days: list[date]
    history_days: int
    expected: float
    horizons: list[Horizon]
    false_alarms: int

    def days_needed(self, of: Callable[[Horizon], float]) -> int | None:
        """Return the fewest days after which the expected difference is found; None beyond ``LONGEST``."""
        return next((h.days for h in self.horizons if of(h) <= self.expected), None)


def plan(lake: Lake, surface: Surface, through: date, metric: str, expected: float, seed: int = 0) -> Planned:
    """Plan an experiment on a surface from its landed days.

    Args:
        lake: Holds the surface's final examples.
        surface: The surface.
        through: The last landed day that counts.
        metric: One of ``METRICS``.
        expected: Relative difference that should be found, above 0.
        seed: Of the random splits.

    Raises:
        NothingToPlanFrom: Fewer than four days are there, or too few users.
    """
    rows = user_days(lake, surface, through - timedelta(days=3 * HISTORY_DAYS), through)
    landed = sorted(rows["day"].unique().to_pylist())
    count = min(len(landed) // 2, HISTORY_DAYS)
    if count < _MIN_MEASURED:
        raise NothingToPlanFrom(
            f"{surface.name} has final examples of {len(landed)} day(s) up to {through}; at least "
            f"{2 * _MIN_MEASURED} are needed, half of them for what is known of users before"
        )
    days, earlier = landed[-count:], landed[-count - HISTORY_DAYS : -count]
    measured = [_measured(rows, days[-k:], earlier, metric) for k in range(1, count + 1)]
    found = [m for m in measured if m is not None]
    if len(found) < _MIN_MEASURED:
        users = len(rows["user_id"].unique())
        raise NothingToPlanFrom(f"{surface.name}: {users} users and too little {metric} up to {through} to plan from")
    horizons = [_horizon(k, users, errors, expected) for k, users, errors in found]
    floors = [_floor([(k, errors[column]) for k, _, errors in found]) for column in (0, 1)]
    horizons += [_horizon(k, None, (floors[0](k), floors[1](k)), expected) for k in range(count + 1, LONGEST + 1)]
    panel = Panel.of(_of(rows, days), days)
    before = panel.before(_of(rows, earlier)).get(metric)
    return Planned(
        metric, days, len(earlier), expected, horizons, false_alarms(panel, metric, before, expected, AA_RUNS, seed)
    )


def false_alarms(panel: Panel, metric: str, before: np.ndarray | None, expected: float, runs: int, seed: int) -> int:
    """Return in how many of some random even splits without a difference daily looks find one on any day.

    Args:
        panel: What users did day by day.
        metric: The figure.
        before: Covariates of its users [n, k].
        expected: Of the intervals.
        runs: Random splits.
        seed: Of the splits.
    """
    rng, alarms = np.random.default_rng(seed), 0
    value, requests = panel.values[metric], panel.requests
    for _ in range(runs):
        treated = rng.permutation(len(panel.users)) % 2 == 0
        for k in range(len(panel.days)):
            asked = panel.asked[:, k]
            lift = split_lift(
                treated[asked], value[asked, k], requests[asked, k], None if before is None else before[asked]
            )
            if lift and not (ends := lift.at_every_look(expected))[0] <= 0 <= ends[1]:
                alarms += 1
                break
    return alarms


def _of(rows: pa.Table, days: list[date]) -> pa.Table:
    wanted = set(days)
    return rows.filter(pa.array([day in wanted for day in rows["day"].to_pylist()], pa.bool_()))


def _measured(
    rows: pa.Table, days: list[date], earlier: list[date], metric: str
) -> tuple[int, int, tuple[float, float]] | None:
    """Return days, users and the standard errors without and with what is known before; None for too few users."""
    panel = Panel.of(_of(rows, days), days)
    history = _of(
        rows, [day for day in sorted(set(rows["day"].to_pylist())) if earlier and earlier[0] <= day < days[0]]
    )
    before = panel.before(history).get(metric)
    value, requests = panel.values[metric][:, -1], panel.requests[:, -1]
    plain = even_split_error(value, requests)
    if plain is None:
        return None
    return len(days), len(panel.users), (plain, even_split_error(value, requests, before) or plain)


def _floor(errors: list[tuple[int, float]]) -> Callable[[int], float]:
    """Return a fit of the standard error to days: its square is a + b / days, neither below 0."""
    days = np.array([k for k, _ in errors], dtype=np.float64)
    squares = np.array([se * se for _, se in errors])
    # Relative residuals: the last, longest days tell most of what lies beyond them.
    (floor, slope), _ = nnls(np.stack([1 / squares, 1 / days / squares], axis=1), np.ones(len(days)))
    return lambda k: float(np.sqrt(floor + slope / k))


def _horizon(days: int, users: int | None, errors: tuple[float, float], expected: float) -> Horizon:
    plain, before = errors
    return Horizon(
        days,
        users,
        once=detectable(plain),
        daily=detectable(plain, expected),
        once_before=detectable(before),
        daily_before=detectable(before, expected),
    )
