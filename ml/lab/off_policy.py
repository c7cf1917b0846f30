"""How often the intervals of off-policy estimates hold the truth, which the simulator knows.

Days of a simulated app whose shelves are drawn in an order with known propensities: one world and one morning, other
sessions and other luck in each log. The hidden truth says how likely each item of a shelf was to be clicked at each of
its columns, and so what any ranker's first choice would have earned there; its mean over all logs is what an interval
over users should hold.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit, logit

from ml.evaluation.bootstrap import UserWeights, effective_users, interval
from ml.evaluation.frame import Frame
from ml.evaluation.off_policy import Logged, first_choice, logged, off_policy
from ml.evaluation.page import write_pages
from ml.evaluation.plots import finish, panels
from ml.evaluation.results import SHOWN
from ml.lab.simulator.music import COLUMNS, HOMEPAGE, SHUFFLE_CHANCES, simulate_music_day
from ml.lab.simulator.sessions import hour_of
from ml.lab.simulator.truth import Slot
from ml.lab.simulator.world import World

METHODS = {
    "naive": "clicks of the first choices, wherever they stood",
    "snips": "SNIPS",
    "dr": "doubly robust",
    "dr_wrong": "doubly robust, contrary expected labels",
}
"""What is compared, and how a reader knows it."""

RANKERS = {
    "student": "knows taste",
    "control": "knows less of it",
    "baseline": "takes what is popular",
    "champion": "keeps the order that was drawn from",
    "teacher": "is contrary",
}
"""Roles in which made-up rankers stand in the evaluation, and what they are."""

_ERRORS = {"student": 0.5, "control": 1.0}
"""Standard deviation of what a ranker that knows taste gets wrong, in logits."""
_COMPARED = (
    *(("student", None), ("baseline", None), ("champion", None), ("teacher", None)),
    *(("student", SHOWN), ("student", "control"), ("student", "champion")),
)
_COLOURS = {"naive": "#9AA5B1", "snips": "#0072B2", "dr": "#009E73", "dr_wrong": "#D55E00"}
_TEMPLATE = Path(__file__).with_name("off_policy.md.j2")
_TASK, _INPUTS = "ctr", "serving"


@dataclass(frozen=True)
class Coverage:
    """What became of one estimate over the logs.

    Attributes:
        rows: Mean rows of a log.
        ranker: Whose first choice is asked about.
        reference: What is subtracted, None for the value itself.
        method: One of ``METHODS``.
        truth: Mean over logs of what the hidden truth says.
        errors: Estimate less ``truth`` in each log.
        half: Mean half width of an interval.
        covered: Logs whose interval held ``truth``.
        effective_rows: Mean over logs; None of the naive one, like the next.
        effective_positives: Likewise.
        effective_users: Likewise.
    """

    rows: float
    ranker: str
    reference: str | None
    method: str
    truth: float
    errors: tuple[float, ...]
    half: float
    covered: int
    effective_rows: float | None
    effective_positives: float | None
    effective_users: float

    @property
    def bias(self) -> float:
        """Mean error."""
        return float(np.mean(self.errors))

    @property
    def spread(self) -> float:
        """Standard deviation of the errors."""
        return float(np.std(self.errors))

    @property
    def share(self) -> float:
        """Share of the logs whose interval held the truth."""
        return self.covered / len(self.errors)


@dataclass(frozen=True, eq=False)
class _Known:
    """One log and what is true of it; rows are those of drawn shelves, a shelf's items next to each other.

    Attributes:
        users: Of each row [n].
        popular: How popular each row's item is [n].
        place: Place of each row's item in the order that was drawn from [n].
        log: What chance did.
        clicked: Labels [n].
        probability: Of a click on each item of a shelf at each of its columns, float [shelves, COLUMNS, COLUMNS].
    """

    users: np.ndarray
    popular: np.ndarray
    place: np.ndarray
    log: Logged
    clicked: np.ndarray
    probability: np.ndarray


Asked = tuple[str, str | None]
"""Ranker and reference."""
Found = dict[tuple[str, str | None, str], tuple[float, float, float, float | None, float | None, float]]
"""Value, both ends, effective rows, positives and users by ranker, reference and method."""


def coverage(
    preset: str, sizes: Sequence[int], logs: int, seed: int = 1, tell: Callable[[str], None] = lambda what: None
) -> list[Coverage]:
    """Simulate logs, estimate what rankers would earn from each, and hold the intervals against the truth.

    Args:
        preset: Of the world.
        sizes: Exposures of a log, about.
        logs: Logs of each size, at least 2.
        seed: Of the world and of all luck.
        tell: Told what is under way.
    """
    world = World(preset, seed=seed)
    found: list[Coverage] = []
    for place, size in enumerate(sizes):
        tell(f"{logs} logs of some {size:,} exposures")
        drawn = [_estimates(known, seed) for known in _logs(world, size, logs, 1000 * (seed + place))]
        found += _summed(drawn)
    return found


def write_coverage(found: Sequence[Coverage], preset: str, command: str, out: Path) -> list[Path]:
    """Write the page of coverage and return its files.

    Args:
        found: Of ``coverage``.
        preset: Whose app.
        command: What made it.
        out: Markdown file to write.
    """
    logs = len(found[0].errors)
    facts: dict[str, object] = {
        "command": command,
        "preset": preset,
        "logs": logs,
        "methods": METHODS,
        "found": found,
        "sizes": list(dict.fromkeys(row.rows for row in found)),
        "named": named,
        "chance": 1.96 * (0.95 * 0.05 / logs) ** 0.5,
    }
    plots = {"coverage": _plot(found)}
    return write_pages(_TEMPLATE, facts, plots, out, "Crossfade: coverage of off-policy estimates")


_MORNING = 5
"""Days that the world ran before: users know artists by then."""


def _logs(world: World, size: int, logs: int, seed: int) -> Iterator[_Known]:
    """Yield logs of one morning of a world, each with sessions and luck of its own."""
    state = world.state(_MORNING)
    preset = world.preset.model_copy(update={"homepage_exposures": float(size), "radio_exposures": 1.0})
    for number in range(logs):
        day = simulate_music_day(preset, seed + number, world.truth, state, shuffled=1.0)
        shown = day.exposures
        rows = np.flatnonzero((shown.surface == HOMEPAGE) & (shown.shuffled >= 0))
        rows = rows[np.lexsort((shown.column[rows], shown.shuffled[rows]))]
        clicked = np.zeros(len(shown.second))
        clicked[day.listens.exposure[day.listens.exposure >= 0]] = 1
        shelves = rows.reshape(-1, COLUMNS)[:, :, None]
        user, track = shown.user[shelves], shown.track[shelves]
        probability = world.truth.homepage_click_probability(
            user,
            track,
            day=state.day,
            slot=Slot(shown.shelf[shelves], shown.row[shelves], np.arange(COLUMNS)[None, None, :]),
            hour=hour_of(shown.second[shelves]),
            mood=shown.mood[shelves],
            known=shown.known[shelves],
            plays=state.plays(user, world.truth.population.tracks.artist[track]),
        )
        log = logged(np.arange(len(rows)), shown.shuffled[rows], shown.propensity[rows])
        popular = world.truth.population.tracks.popularity[shown.track[rows]]
        chances = SHUFFLE_CHANCES[:, shown.column[rows]]
        place = np.abs(chances - shown.propensity[rows]).argmin(axis=0)
        yield _Known(shown.user[rows], popular, place, log, clicked[rows], probability.astype(np.float64))


def _rankers(known: _Known, seed: int) -> dict[str, np.ndarray]:
    """Return made-up rankers' scores of each row [n]; they know an item, not its place."""
    rng, own = np.random.default_rng([seed, len(known.popular)]), logit(known.probability[:, :, 0].ravel())
    scores = {name: own + error * rng.standard_normal(len(own)) for name, error in _ERRORS.items()}
    return scores | {"baseline": known.popular, "champion": -known.place.astype(np.float64), "teacher": -own}


def _estimates(known: _Known, seed: int) -> tuple[int, dict[Asked, float], Found]:
    """Return rows, what is true and what each method says of one log."""
    scores, lists = _rankers(known, seed), len(known.probability)
    weights = UserWeights(known.users, seed=seed, replicates=300)
    frame = _frame(known.users, known.clicked, scores)
    found: Found = {}
    for method, expected in (("dr", expit(scores["control"])), ("dr_wrong", expit(scores["teacher"]))):
        evaluated = off_policy(frame, [_TASK], weights, known.log, expected={_TASK: expected})
        for value in evaluated.values if evaluated else ():
            key = (value.model, value.reference, method if value.estimator == "dr" else value.estimator)
            counts = (value.effective_rows, value.effective_positives, value.effective_users)
            found[key] = (value.value, value.lo, value.hi, *counts)
    policies = {name: first_choice(own, known.log.lists) for name, own in scores.items()}
    true = {name: float(known.probability.mean(axis=2).ravel() @ p) / lists for name, p in policies.items()}
    true[SHOWN] = float(known.probability.diagonal(axis1=1, axis2=2).mean())
    truth = {(name, other): true[name] - (true[other] if other else 0.0) for name, other in _COMPARED}
    return len(known.users), truth, found | _naive(known, weights, policies)


def _naive(known: _Known, weights: UserWeights, policies: Mapping[str, np.ndarray]) -> Found:
    """Return what the clicks of the first choices say where nobody asks where they stood."""
    effective = effective_users(weights.codes)
    linear = {name: weights.ratio(weights.codes, p * known.clicked, p) for name, p in policies.items()}
    linear[SHOWN] = weights.mean(weights.codes, known.clicked)
    replicates = dict(zip(linear, weights.replicate(list(linear.values())), strict=True))
    values = {name: float(of.combine(of.terms.sum(axis=1, keepdims=True))[0]) for name, of in linear.items()}
    found: Found = {}
    for name, other in _COMPARED:
        value, spread = (values[name], replicates[name])
        if other:
            value, spread = value - values[other], spread - replicates[other]
        bounds = interval(value, spread, effective)
        found[name, other, "naive"] = (bounds.estimate, bounds.lo, bounds.hi, None, None, effective)
    return found


def _frame(users: np.ndarray, clicked: np.ndarray, scores: Mapping[str, np.ndarray]) -> Frame:
    return Frame(
        users=users,
        sessions=users,
        labels={_TASK: clicked},
        slices={},
        scores={(_INPUTS, model, _TASK): own for model, own in scores.items()},
        hashes={},
        history={},
    )


def _summed(drawn: Sequence[tuple[int, dict[Asked, float], Found]]) -> list[Coverage]:
    rows = np.array([n for n, _, _ in drawn], dtype=np.float64)
    found: list[Coverage] = []
    for ranker, reference in _COMPARED:
        # The mean over places of all logs: longer logs hold more of them.
        truth = float(np.average([true[ranker, reference] for _, true, _ in drawn], weights=rows))
        for method in METHODS:
            made = [of[ranker, reference, method] for _, _, of in drawn]
            known = np.array([found[3:5] for found in made], dtype=np.float64).mean(axis=0)
            found.append(
                Coverage(
                    rows=float(rows.mean()),
                    ranker=ranker,
                    reference=reference,
                    method=method,
                    truth=truth,
                    errors=tuple(value - truth for value, *_ in made),
                    half=float(np.mean([(hi - lo) / 2 for _, lo, hi, *_ in made])),
                    covered=sum(lo <= truth <= hi for _, lo, hi, *_ in made),
                    effective_rows=None if method == "naive" else float(known[0]),
                    effective_positives=None if method == "naive" else float(known[1]),
                    effective_users=float(np.mean([users for *_, users in made])),
                )
            )
    return found


def named(row: Coverage) -> str:
    """Return in words what a row estimates."""
    than = {None: "", SHOWN: ", more than was shown"}
    return RANKERS[row.ranker] + than.get(row.reference, f", more than one that {RANKERS.get(row.reference or '', '')}")


def _plot(found: Sequence[Coverage]) -> bytes:
    sizes = list(dict.fromkeys(row.rows for row in found))
    figure, axes = panels(6.4, len(sizes))
    names = [named(row).replace(", more", ",\nmore") for row in found if row.rows == sizes[0] and row.method == "snips"]
    for place, (panel, size) in enumerate(zip(axes, sizes, strict=True)):
        for number, method in enumerate(METHODS):
            own = [row for row in found if row.rows == size and row.method == method]
            at = -np.arange(len(own)) - 0.18 * (number - 1.5)
            mean = np.array([100 * row.bias for row in own])
            spread = np.array([196 * row.spread for row in own])
            panel.hlines(at, mean - spread, mean + spread, color=_COLOURS[method], linewidth=2)
            panel.plot(mean, at, "o", color=_COLOURS[method], label=METHODS[method], markersize=5)
        panel.axvline(0, color="#1F2933", linewidth=1)
        panel.set_yticks(-np.arange(len(names)), names if not place else [""] * len(names))
        panel.set_title(f"logs of {size:,.0f} rows", fontsize=10)
        panel.set_xlabel("estimate less truth")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    title = f"Errors of the estimates, clicks per 100 places; bars hold 95 % of {len(found[0].errors)} logs"
    return finish(figure, axes[0], title, "", None)
