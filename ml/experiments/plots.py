"""Plots of an experiment as PNG bytes, in the style of ``ml/evaluation/plots.py``."""

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np

from ml.evaluation.plots import Mark, finish, forest, stack
from ml.experiments.analysis import Effect
from ml.experiments.user_days import METRICS

COLOURS = {"split": "#0072B2", "paired": "#D55E00", "interleaved": "#009E73"}
MARKERS = {"split": "o", "paired": "s", "interleaved": "D"}
LABELS = {"engagement": "engagement", "discovery": "discovery", "new_releases": "new releases"}
ESTIMATES = {"split": "users split", "paired": "both variants answer", "interleaved": "both in one list"}

_INK = "#1F2933"


def days_plot(by_day: Mapping[date, Sequence[Effect]], surface: str, variant: str) -> bytes:
    """Plot a variant's difference to the baseline over days with its intervals, a panel per metric.

    Args:
        by_day: Effects of each day alone.
        surface: Which surface.
        variant: Which variant.
    """
    figure, stacked = stack(6.6, len(METRICS))
    days, note = list(by_day), ""
    for axes, metric in zip(stacked, METRICS, strict=True):
        axes.axhline(0, color=_INK, linewidth=1)
        mine = {
            d: [e for e in by_day[d] if (e.surface, e.variant, e.metric) == (surface, variant, metric)] for d in days
        }
        estimates = list(dict.fromkeys(e.estimate for effects in mine.values() for e in effects))
        for number, estimate in enumerate(estimates):
            found = [(k, e) for k, d in enumerate(days) for e in mine[d] if e.estimate == estimate]
            place = np.array([k for k, _ in found]) + 0.16 * (number - (len(estimates) - 1) / 2)
            lifts = [e.lift for _, e in found]
            colour = COLOURS[estimate]
            axes.vlines(place, [100 * x.lo for x in lifts], [100 * x.hi for x in lifts], color=colour, linewidth=2)
            axes.plot(
                place, [100 * x.estimate for x in lifts], MARKERS[estimate], color=colour, label=ESTIMATES[estimate]
            )
            note = f"difference to {found[0][1].baseline}, per request; 95 % intervals"
        axes.set_ylabel(f"{LABELS[metric]}, %")
    stacked[-1].set_xticks(range(len(days)), [f"{day:%b} {day.day}" for day in days])
    worlds = max((e.lift.worlds for effects in by_day.values() for e in effects), default=0)
    where = f"{worlds} worlds, " if worlds > 1 else ""
    return finish(
        figure,
        stacked[0],
        f"{surface.capitalize()}, {where}{len(days)} days: {variant} day by day",
        note,
        "above",
    )


def effects_plot(groups: Mapping[str, Sequence[Effect]], title: str) -> bytes:
    """Plot differences with their intervals, a line per surface, metric and estimate.

    Args:
        groups: Effects by the name of their experiment.
        title: What they are.
    """
    shown = [(name, effect) for name, effects in groups.items() for effect in effects]
    marks: dict[str, list[Mark]] = {f"{e.surface}, {LABELS[e.metric]}": [] for _, e in shown}
    for name, e in shown:
        told, hollow = f"{name}, {ESTIMATES[e.estimate]}", e.variant.startswith(e.baseline)
        mark = Mark(told, e.lift.estimate, e.lift.lo, e.lift.hi, COLOURS[e.estimate], hollow)
        marks[f"{e.surface}, {LABELS[e.metric]}"].append(mark)
    figure, axes = forest(marks, "difference to the baseline, %")
    worlds = max((effect.lift.worlds for _, effect in shown), default=0)
    return finish(figure, axes, title, f"{worlds} world(s); 95 % intervals; hollow: the same ranker in both variants")
