"""Plots of an experiment as PNG bytes, in the style of ``ml/evaluation/plots.py``."""

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np

from ml.experiment.analysis import Effect
from ml.experiment.traffic import METRICS

COLOURS = {"split": "#0072B2", "paired": "#D55E00"}
LABELS = {"engagement": "engagement", "discovery": "discovery", "new_releases": "new releases"}
ESTIMATES = {"split": "users split", "paired": "both arms answer"}

_INK = "#1F2933"


def days_plot(by_day: Mapping[date, Sequence[Effect]], surface: str, arm: str) -> bytes:
    """Plot an arm's difference to the baseline over days with its intervals, a panel per metric.

    Args:
        by_day: Effects of each day alone.
        surface: Which surface.
        arm: Which arm.
    """
    from ml.evaluation.plots import finish, stack

    figure, stacked = stack(6.6, len(METRICS))
    days, note = list(by_day), ""
    for axes, metric in zip(stacked, METRICS, strict=True):
        axes.axhline(0, color=_INK, linewidth=1)
        mine = {d: [e for e in by_day[d] if (e.surface, e.arm, e.metric) == (surface, arm, metric)] for d in days}
        estimates = list(dict.fromkeys(e.estimate for effects in mine.values() for e in effects))
        for number, estimate in enumerate(estimates):
            found = [(k, e) for k, d in enumerate(days) for e in mine[d] if e.estimate == estimate]
            place = np.array([k for k, _ in found]) + 0.16 * (number - (len(estimates) - 1) / 2)
            lifts = [e.lift for _, e in found]
            colour = COLOURS[estimate]
            axes.vlines(place, [100 * x.lo for x in lifts], [100 * x.hi for x in lifts], color=colour, linewidth=2)
            axes.plot(place, [100 * x.estimate for x in lifts], "o", color=colour, label=ESTIMATES[estimate])
            note = f"difference to {found[0][1].baseline}, per request; 95 % intervals"
        axes.set_ylabel(f"{LABELS[metric]}, %")
    stacked[-1].set_xticks(range(len(days)), [f"{day:%b} {day.day}" for day in days])
    worlds = max((e.lift.worlds for effects in by_day.values() for e in effects), default=0)
    where = f"{worlds} worlds, " if worlds > 1 else ""
    return finish(
        figure, stacked[0], f"{surface.capitalize()}, {where}{len(days)} days: {arm} day by day", note, "upper right"
    )


def effects_plot(groups: Mapping[str, Sequence[Effect]], title: str) -> bytes:
    """Plot differences with their intervals, a line per surface, metric and estimate.

    Args:
        groups: Effects by the name of their experiment.
        title: What they are.
    """
    from ml.evaluation.plots import canvas, finish

    shown = [(name, effect) for name, effects in groups.items() for effect in effects]
    headings = list(dict.fromkeys((effect.surface, effect.metric) for _, effect in shown))
    figure, axes = canvas(1.6 + 0.3 * len(shown) + 0.35 * len(headings))
    place, places, names = 0.0, [], []
    for surface, metric in headings:
        names.append(f"{surface}, {LABELS[metric]}")
        places.append(place)
        place -= 1
        for name, effect in (x for x in shown if (x[1].surface, x[1].metric) == (surface, metric)):
            colour, lift = COLOURS[effect.estimate], effect.lift
            hollow = effect.arm.startswith(effect.baseline)
            axes.plot([100 * lift.lo, 100 * lift.hi], [place, place], color=colour, linewidth=2)
            axes.plot(100 * lift.estimate, place, "o", color=colour, markerfacecolor="white" if hollow else colour)
            names.append(f"{name}, {ESTIMATES[effect.estimate]}")
            places.append(place)
            place -= 1
        place -= 0.4
    axes.axvline(0, color=_INK, linewidth=1)
    axes.set_yticks(places, names)
    axes.set_xlabel("difference to the baseline, %")
    axes.set_ylim(place + 0.6, 0.8)
    worlds = max((effect.lift.worlds for _, effect in shown), default=0)
    return finish(figure, axes, title, f"{worlds} world(s); 95 % intervals; hollow: the same ranker in both arms")
