"""How often an experiment that one looks at every day errs, and how soon it finds what is there, by simulation.

Users of lasting but drifting taste come on some days, some often and most seldom. A few like so much that they carry a
large part of the sum. A variant multiplies what it gives by 1 + lift. In an interleaved answer each team picks half of
what is shown, so that each is credited about half of what a user does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml.evaluation.page import write_pages
from ml.evaluation.plots import finish, panels
from ml.experiments.lift import EXPECTED_LIFT, Lift, covariates, paired_lift, split_lift

METHODS = {
    "naive": "users split, an interval for one look at every look",
    "once": "users split, one look at the end",
    "daily": "users split, daily looks",
    "history": "users split, daily looks, history (CUPED)",
    "interleaved": "both in one list, daily looks",
}
"""What is compared, and how a reader knows it."""

_COLOURS = {"naive": "#9AA5B1", "once": "#1F2933", "daily": "#0072B2", "history": "#D55E00", "interleaved": "#009E73"}
_TEMPLATE = Path(__file__).with_name("rates.md.j2")
_EVENTS = 0.5
_TASTE, _DRIFT, _WEEK = 0.6, 0.05, 0.15


@dataclass(frozen=True)
class App:
    """A simulated app and its experiment.

    Attributes:
        users: Who may come.
        days: Of the experiment, with a look after each.
        history_days: Before it.
        visits: Share of the days on which a mean user comes.
    """

    users: int = 3000
    days: int = 28
    history_days: int = 28
    visits: float = 0.2


@dataclass(frozen=True)
class Rate:
    """What became of the runs of one method at one true lift.

    Attributes:
        method: One of ``METHODS``.
        lift: The true one; 0 is an A/A run.
        runs: Runs.
        decided: Runs whose interval left 0 out at some look, after each day [days], cumulative.
        wrong: Runs that were decided with the wrong sign; with no lift, all that were decided.
        covered: Runs whose interval held the true lift at every look.
        days: First day, from 1, by which half of all runs were decided; None where fewer ever were.
    """

    method: str
    lift: float
    runs: int
    decided: tuple[int, ...]
    wrong: int
    covered: int
    days: int | None

    @property
    def share(self) -> float:
        """Share of the runs that were decided by the last day."""
        return self.decided[-1] / self.runs


@dataclass(frozen=True)
class _Drawn:
    """One run: what each user did through each day [n, days], of the split and in interleaved answers."""

    treated: np.ndarray
    requests: np.ndarray
    value: np.ndarray
    picks: tuple[np.ndarray, np.ndarray]
    before: np.ndarray


def rates(
    lifts: Sequence[float], runs: int, app: App, seed: int = 1, tell: Callable[[str], None] = lambda what: None
) -> list[Rate]:
    """Simulate experiments and look at each on every day by each method.

    Args:
        lifts: True relative differences; 0 is an A/A run.
        runs: Experiments of each.
        app: Whose.
        seed: Of the simulation; runs of different lifts have users of their own.
        tell: Told what is under way.
    """
    found: list[Rate] = []
    for place, lift in enumerate(lifts):
        tell(f"{runs} experiments with a true difference of {lift:.0%}")
        looks = [_looks(_draw(app, lift, np.random.default_rng([seed, place, run])), app.days) for run in range(runs)]
        found += [_rate(method, lift, [look[method] for look in looks], app.days) for method in METHODS]
    return found


def write_rates(found: Sequence[Rate], app: App, command: str, out: Path) -> list[Path]:
    """Write the page of error rates and return its files.

    Args:
        found: Of ``rates``.
        app: Whose.
        command: What made it.
        out: Markdown file to write.
    """
    lifts = sorted({rate.lift for rate in found})
    facts: dict[str, object] = {
        "app": app,
        "command": command,
        "runs": found[0].runs,
        "lifts": lifts,
        "methods": METHODS,
        "rates": {(rate.method, rate.lift): rate for rate in found},
        "expected": EXPECTED_LIFT,
        "most": 1.96 * (0.05 * 0.95 / found[0].runs) ** 0.5,
    }
    return write_pages(_TEMPLATE, facts, {"decided": _plot(found, app)}, out, "Crossfade: error rates of experiments")


def _draw(app: App, lift: float, rng: np.random.Generator) -> _Drawn:
    """Draw the users of one experiment and what they do, the days before it first."""
    n, days = app.users, app.history_days + app.days
    comes = rng.beta(0.5, 0.5 / app.visits - 0.5, (n, 1))
    week = 1 + _WEEK * np.sin(2 * np.pi * (np.arange(days) + rng.integers(7)) / 7)
    visits = rng.random((n, days)) < comes * week
    requests = visits * (1 + rng.poisson(1.0, (n, days)))
    taste = np.exp(rng.normal(0, _TASTE, (n, 1)) + rng.normal(0, _DRIFT, (n, days)).cumsum(axis=1))
    treated = rng.permutation(n) % 2 == 0
    gain = np.where(treated, 1 + lift, 1.0)[:, None]

    def given(share: float) -> np.ndarray:
        return rng.gamma(_EVENTS * share * requests) / _EVENTS * taste

    value, (control, challenger) = given(1.0), (given(0.5), given(0.5))
    start = app.history_days
    before = covariates(value[:, :start].sum(axis=1), requests[:, :start].sum(axis=1))
    live = [part[:, start:].cumsum(axis=1) for part in (requests, value * gain, challenger * (1 + lift), control)]
    return _Drawn(treated, live[0], live[1], (live[2], live[3]), before)


def _looks(drawn: _Drawn, days: int) -> Mapping[str, list[tuple[float, float] | None]]:
    """Return the interval of each method after each day; None where it has none."""
    found: dict[str, list[tuple[float, float] | None]] = {method: [] for method in METHODS}
    for k in range(days):
        asked = drawn.requests[:, k] > 0
        sides = drawn.treated[asked], drawn.value[asked, k], drawn.requests[asked, k]
        plain = split_lift(*sides)
        known = split_lift(*sides, drawn.before[asked])
        together = paired_lift(drawn.picks[0][asked, k], drawn.picks[1][asked, k], drawn.requests[asked, k])
        found["naive"].append(_once(plain))
        found["once"].append(_once(plain) if k == days - 1 else None)
        for method, lift in (("daily", plain), ("history", known), ("interleaved", together)):
            found[method].append(lift.at_every_look() if lift else None)
    return found


def _once(lift: Lift | None) -> tuple[float, float] | None:
    return lift.at_one_look() if lift else None


def _rate(method: str, lift: float, runs: Sequence[list[tuple[float, float] | None]], days: int) -> Rate:
    first, wrong, covered = [], 0, 0
    for looks in runs:
        ends = [(day, *look) for day, look in enumerate(looks, start=1) if look]
        decided = next(((day, lo > 0) for day, lo, hi in ends if not lo <= 0 <= hi), None)
        first += [decided[0]] if decided else []
        wrong += decided is not None and (lift == 0 or decided[1] != (lift > 0))
        covered += all(lo <= lift <= hi for _, lo, hi in ends)
    through = tuple(sum(day <= k for day in first) for k in range(1, days + 1))
    half = next((day for day, count in enumerate(through, start=1) if 2 * count >= len(runs)), None)
    return Rate(method, lift, len(runs), through, wrong, covered, half)


def _plot(found: Sequence[Rate], app: App) -> bytes:
    lifts = sorted({rate.lift for rate in found})
    figure, axes = panels(4.8, len(lifts))
    days = np.arange(1, app.days + 1)
    for place, (panel, lift) in enumerate(zip(axes, lifts, strict=True)):
        for rate in (rate for rate in found if rate.lift == lift):
            shares = 100 * np.array(rate.decided) / rate.runs
            mark = "o" if rate.method == "once" else None
            shown = slice(-1, None) if rate.method == "once" else slice(None)
            panel.plot(days[shown], shares[shown], color=_COLOURS[rate.method], marker=mark, label=METHODS[rate.method])
        panel.axhline(5, color="#1F2933", linewidth=1, linestyle=(0, (4, 3)))
        panel.set_ylim(0, 102 if lift else 60)
        panel.set_title(f"true difference {lift:.0%}", fontsize=10)
        panel.set_xlabel("day")
        if not place:
            panel.set_ylabel("decided so far, %")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return finish(figure, axes[0], "How often an experiment is decided by each day", "dashed: 5 %", None)
