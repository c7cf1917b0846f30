"""Plots of an evaluation as PNG bytes, 900 pixels wide, in colours that stay apart for colour-blind readers.

Each title states what the plot shows, with n; nothing is said beyond what the figures say.
"""

import base64
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ml.evaluation.results import ALL, Difference, Evaluation, Result

COLOURS = {
    "student": "#0072B2",
    "control": "#D55E00",
    "champion": "#009E73",
    "teacher": "#595959",
    "baseline": "#CC79A7",
}
"""Okabe and Ito's palette and a grey, one colour per model wherever it appears."""

MARKERS = {"student": "o", "control": "s", "champion": "D", "teacher": "^", "baseline": "v"}
SERIES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "D"),
    ("#CC79A7", "^"),
    ("#56B4E9", "v"),
    ("#E69F00", "P"),
    ("#1F2933", "X"),
)
"""Colour and marker of lines that stand for no model, in turn, of the same palette: the marker tells those apart whose
colours somebody does not."""
METRIC_NAMES = {"auc": "AUC", "r2": "R²", "log_loss": "log loss"}

_INK, _MUTED, _GRID = "#1F2933", "#5F6B7A", "#E3E7EC"
_WIDTH, _DPI = 9.0, 100
_PROBABILITY_TICKS = np.array([0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0])


def calibration_plot(evaluation: Evaluation, task: str, inputs: str = "serving") -> bytes:
    """Plot mean prediction against mean label in equal-mass bins, for student and control (and champion).

    Bars are two binomial standard errors of a bin's observed rate; axes of a binary task are square roots of
    probability, which spreads low rates and still shows 0.
    """
    binary = evaluation.kinds[task] == "binary"
    models = [m for m in ("champion", "control", "student") if evaluation.has(m, task, inputs)]
    figure, axes = canvas(5.4)
    curves = {m: evaluation.calibration_of(m, task, inputs) for m in models}
    values = np.concatenate([np.r_[c.predicted, c.observed] for c in curves.values()] or [np.array([0.0, 1.0])])
    lo, hi = (0.0, min(1.0, values.max() * 1.08)) if binary else (values.min(), values.max())
    axes.plot([lo, hi], [lo, hi], color=_MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="ideal", zorder=1)
    for model, curve in curves.items():
        observed, rows = np.array(curve.observed), np.array(curve.rows)
        axes.plot(curve.predicted, observed, **_line(model), label=model, zorder=3)
        if binary:
            spread = 2 * np.sqrt(observed * (1 - observed) / rows)
            axes.vlines(
                curve.predicted,
                np.maximum(observed - spread, 0),
                np.minimum(observed + spread, 1),
                color=COLOURS[model],
                linewidth=1.2,
                alpha=0.35,
                zorder=2,
            )
    if binary:
        ticks = _thin(_PROBABILITY_TICKS[hi >= _PROBABILITY_TICKS], hi)
        names = [f"{100 * t:g} %" for t in ticks]
        axes.set_xscale("function", functions=(_positive_sqrt, np.square))
        axes.set_yscale("function", functions=(_positive_sqrt, np.square))
        axes.set_xticks(ticks, names)
        axes.set_yticks(ticks, names)
        axes.set_xlim(lo, hi)
        axes.set_ylim(lo, hi)
    axes.set_xlabel("mean prediction of the bin")
    axes.set_ylabel("mean label of the bin")
    axes.set_box_aspect(0.62)
    shown = models[::-1]
    if binary:
        ratios = _listed(evaluation, shown, task, "predicted_over_observed", inputs, "{:.2f}")
        title = f"{_place(evaluation, task)}: predicted / observed {ratios}"
        note = f"expected calibration error {_listed(evaluation, shown, task, 'ece', inputs, '{:.3f}')}"
    else:
        title = f"{_place(evaluation, task)}: RMSE {_listed(evaluation, shown, task, 'rmse', inputs, '{:.3f}')}"
        note = f"R² {_listed(evaluation, shown, task, 'r2', inputs, '{:.3f}')}"
    return finish(figure, axes, title, f"{note}; {_counts(evaluation, task, inputs)}", legend="upper left")


def delta_plot(evaluation: Evaluation, a: str = "student", b: str = "control", inputs: str = "serving") -> bytes:
    """Plot ``a - b`` on each task's primary metric with its 95 % interval, per task and slice (a forest plot).

    Hollow marks have too few rows or positives for a judgement.
    """
    tasks = [t for t in evaluation.kinds if evaluation.has(a, t, inputs) and evaluation.has(b, t, inputs)]
    groups = [(m, [t for t in tasks if evaluation.primary(t) == m]) for m in ("auc", "r2")]
    groups = [(metric, members) for metric, members in groups if members]
    slices = evaluation.slices
    sizes = [len(members) * (len(slices) + 0.8) for _, members in groups] or [1]
    figure = Figure(figsize=(_WIDTH, 1.9 + 0.26 * sum(sizes) + 0.35 * len(sizes)), dpi=_DPI, layout="constrained")
    panels = figure.subplots(len(sizes), 1, height_ratios=sizes, squeeze=False)[:, 0]
    verdicts = {"above": 0, "below": 0, "across": 0}
    for axes, (metric, members) in zip(panels, groups, strict=False):
        _style(axes)
        axes.axvline(0, color=_INK, linewidth=1.1, zorder=1)
        place, labels, places = 0.0, [], []
        for task in members:
            for name in slices:
                d = evaluation.difference(a, b, task, name, inputs=inputs)
                verdicts[_side(d)] += d.flag is None
                _whisker(axes, d, place, COLOURS[a])
                axes.annotate(
                    f"{100 * d.estimate:+.2f}   n {d.n:,}, {_users(d)}",
                    (1.01, place),
                    xycoords=("axes fraction", "data"),
                    va="center",
                    fontsize=9,
                    color=_MUTED if d.flag else _INK,
                    annotation_clip=False,
                )
                labels.append(f"{task} · {name.replace('_', ' ')}")
                places.append(place)
                place += 1
            place += 0.8
        axes.set_yticks(places, labels)
        axes.set_ylim(place - 0.9, -0.9)
        axes.set_xlabel(f"difference in {METRIC_NAMES[metric]} x 100")
        axes.grid(axis="y", visible=False)
    total = sum(verdicts.values())
    title = (
        f"{evaluation.surface.capitalize()}, {a} - {b}: interval above 0 in {verdicts['above']}, across 0 in "
        f"{verdicts['across']}, below 0 in {verdicts['below']} of {total} cells"
    )
    note = f"95 % paired bootstrap over {_users(evaluation)}; n = {evaluation.rows:,} rows; hollow: too few rows"
    return finish(figure, panels[0], title, note)


def slice_plot(evaluation: Evaluation, inputs: str = "serving") -> bytes:
    """Plot the lift by slice: each model's primary metric, an arrow from control to student, a panel per task."""
    tasks = [t for t in evaluation.kinds if _paired(evaluation, t, inputs)]
    slices = evaluation.slices
    figure = Figure(figsize=(_WIDTH, 2.3 + 0.3 * len(slices)), dpi=_DPI, layout="constrained")
    grid = figure.add_gridspec(2, len(tasks), height_ratios=[len(slices), 0.5])
    panels = [figure.add_subplot(grid[0, i]) for i in range(len(tasks))]
    lifts = []
    for axes, task in zip(panels, tasks, strict=True):
        _style(axes)
        off_scale: dict[str, None] = {}
        for row, name in enumerate(slices):
            values = {
                m: evaluation.metric(m, task, name, inputs=inputs)
                for m in ("baseline", "teacher", "champion", "control", "student")
                if evaluation.has(m, task, inputs)
            }
            axes.plot([values["control"], values["student"]], [row, row], color=_MUTED, linewidth=2, zorder=2)
            weak = evaluation.result("student", task, name, inputs=inputs).flag is not None
            for model, value in values.items():
                if value < values["control"] - 0.5:  # a raw R2 far below the others would flatten the panel
                    off_scale[model] = None
                else:
                    axes.plot(value, row, **_mark(model, hollow=weak), zorder=3)
        axes.set_yticks(range(len(slices)), [s.replace("_", " ") for s in slices] if axes is panels[0] else [])
        axes.set_ylim(len(slices) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(METRIC_NAMES[evaluation.primary(task)])
        left_out = f" ({', '.join(off_scale)} off scale)" if off_scale else ""
        axes.set_title(f"{task}{left_out}", fontsize=10.5, color=_INK, loc="left")
        lifts.append(f"{task} {100 * evaluation.difference('student', 'control', task, inputs=inputs).estimate:+.2f}")
    shown = [m for m in COLOURS if any(evaluation.has(m, t, inputs) for t in tasks)]
    key = figure.add_subplot(grid[1, :])
    key.set_axis_off()
    handles = [Line2D([], [], **_mark(m, hollow=False), label=m) for m in shown]
    key.legend(handles=handles, loc="center", ncols=len(shown), frameon=False, fontsize=10)
    title = f"{evaluation.surface.capitalize()}, student - control, x 100, all rows: {', '.join(lifts)}"
    note = f"{inputs} inputs; n = {evaluation.rows:,} rows, {_users(evaluation)}; hollow: too few rows"
    return finish(figure, panels[0], title, note)


def score_plot(evaluation: Evaluation, task: str, inputs: str = "serving") -> bytes:
    """Plot the distribution of raw scores of student and control, a binary task's split by label.

    Counts are shares of the class; scores beyond the 0.1 % and 99.9 % quantiles stand in the outer bins.
    """
    binary = evaluation.kinds[task] == "binary"
    models = [m for m in ("control", "student") if evaluation.has(m, task, inputs)]
    figure, axes = canvas(4.2)
    for model in models:
        histogram = evaluation.histogram_of(model, task, inputs)
        parts = (
            {"positive": histogram.positives, "negative": histogram.negatives} if binary else {"": histogram.negatives}
        )
        for name, counts in parts.items():
            share = np.array(counts) / max(sum(counts), 1)
            line = {"linewidth": 2.0, "color": COLOURS[model], "linestyle": "-" if name != "negative" else (0, (3, 2))}
            axes.stairs(share, histogram.edges, **line, label=f"{model}, {name}" if name else model)
            if model == "student":
                axes.stairs(share, histogram.edges, fill=True, color=COLOURS[model], alpha=0.08)
    axes.set_xlabel("logit" if binary else "predicted value")
    axes.set_ylabel("share of the class" if binary else "share of rows")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.3g} %"))
    metric = evaluation.primary(task)
    figures = _listed(evaluation, models[::-1], task, metric, inputs, "{:.4f}")
    title = f"{_place(evaluation, task)}: {METRIC_NAMES[metric]} {figures}"
    return finish(figure, axes, title, f"raw scores; {_counts(evaluation, task, inputs)}", legend="upper right")


def figures(evaluation: Evaluation) -> dict[str, bytes]:
    """Return every plot of an evaluation, none of a task without labels, by a name fit for a file or metadata key."""
    trained = [t for t in evaluation.kinds if _labelled(evaluation, t)]
    plots: dict[str, Callable[[], bytes]] = {}
    if any(_paired(evaluation, t, "serving") for t in trained):
        plots |= {"deltas": lambda: delta_plot(evaluation), "slices": lambda: slice_plot(evaluation)}
    for task in trained:
        plots[f"calibration_{task}"] = lambda task=task: calibration_plot(evaluation, task)
        plots[f"scores_{task}"] = lambda task=task: score_plot(evaluation, task)
    return {name: plot() for name, plot in plots.items()}


def _labelled(evaluation: Evaluation, task: str) -> bool:
    models = [m for m in ("student", "control") if evaluation.has(m, task)]
    return any(evaluation.result(m, task).n for m in models)


def data_uri(png: bytes) -> str:
    """Return a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def markdown_image(png: bytes, alternative: str) -> str:
    """Return a PNG as a Markdown image with everything inside, as Dagster's metadata shows it."""
    return f"![{alternative}]({data_uri(png)})"


def canvas(height: float) -> tuple[Figure, Axes]:
    """Return a figure 900 pixels wide and ``height`` hundred pixels high, and its axes, in the style of all plots."""
    figure, [axes] = panels(height, 1)
    return figure, axes


def panels(height: float, columns: int) -> tuple[Figure, list[Axes]]:
    """Return a figure as ``canvas`` does, with several axes side by side."""
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    found = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in found:
        _style(axes)
    return figure, found


def stack(height: float, rows: int) -> tuple[Figure, list[Axes]]:
    """Return a figure as ``canvas`` does, with several axes below each other that share the horizontal one."""
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    stacked = list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
    for axes in stacked:
        _style(axes)
    return figure, stacked


def dated(axes: Axes, days: Sequence[date]) -> None:
    """Write dates, placed by ``date2num``, below an axis, with room for a lone day."""
    locator = AutoDateLocator(minticks=1, maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_xlim(date2num(min(days)) - 1, date2num(max(days)) + 1)


class Mark(NamedTuple):
    """A line of a forest plot: an estimate with its interval; hollow where the truth is 0."""

    name: str
    estimate: float
    lo: float
    hi: float
    colour: str
    hollow: bool = False


def forest(groups: Mapping[str, Sequence[Mark]], label: str) -> tuple[Figure, Axes]:
    """Plot estimates with their intervals, x100, one below the other, each group under its heading.

    A few marks far from all others do not set the scale: what lies beyond the axis is an arrow with its figure.

    Args:
        groups: {heading: marks}, from the top.
        label: Of the horizontal axis.
    """
    figure, axes = canvas(1.6 + 0.3 * sum(map(len, groups.values())) + 0.35 * len(groups))
    farthest = [100 * max(abs(mark.lo), abs(mark.hi)) for marks in groups.values() for mark in marks]
    reach = min(max(farthest), 1.5 * float(np.quantile(farthest, 0.8))) if farthest else 1.0
    place, places, names = 0.0, [], []
    for heading, marks in groups.items():
        names.append(heading)
        places.append(place)
        place -= 1
        for mark in marks:
            line = np.clip([100 * mark.lo, 100 * mark.hi], -reach, reach)
            axes.plot(line, [place, place], color=mark.colour, linewidth=2)
            face = "white" if mark.hollow else mark.colour
            at, shape = float(np.clip(100 * mark.estimate, -reach, reach)), "o"
            if abs(100 * mark.estimate) > reach:
                shape = ">" if at > 0 else "<"
                aside = (-10, 0) if at > 0 else (10, 0)
                axes.annotate(
                    f"{100 * mark.estimate:+.1f}",
                    (at, place),
                    aside,
                    textcoords="offset points",
                    ha="right" if at > 0 else "left",
                    va="center",
                    fontsize="small",
                    color=mark.colour,
                )
            axes.plot(at, place, shape, color=mark.colour, markerfacecolor=face, markersize=6.5)
            names.append(mark.name)
            places.append(place)
            place -= 1
        place -= 0.4
    axes.axvline(0, color=_INK, linewidth=1)
    axes.set_yticks(places, names)
    axes.set_xlabel(label)
    axes.set_ylim(places[-1] - 0.8, 0.8)
    axes.set_xlim(-1.05 * reach, 1.05 * reach)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_MUTED)
    axes.tick_params(colors=_INK, labelsize=10, length=3)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(fontsize=10.5, color=_MUTED)


Legend = Literal["upper left", "upper right", "above"]
_THEMED = {_INK: "ink", _MUTED: "muted", _GRID: "grid", "#FFFFFF": "paper", "#0072B2": "blue", "#D55E00": "orange"}
_THEMED |= {"#009E73": "green", "#CC79A7": "pink", "#595959": "grey"}
"""Colours that a page may set, as ``--ink`` and so on: a theme for the dark needs lighter ones."""


def finish(figure: Figure, axes: Axes, title: str, note: str, legend: Legend | None = None) -> bytes:
    """Put title and note on a figure and return it as PNG; the same figure gives the same bytes."""
    _titled(figure, axes, title, note, legend)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def finish_themed(figure: Figure, axes: Axes, title: str, note: str, legend: Legend | None = None) -> str:
    """Do as ``finish``, and return an ``<svg>`` that stands in a page and takes the page's colours, light or dark."""
    _titled(figure, axes, title, note, legend)
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    for colour, name in _THEMED.items():
        drawn = drawn.replace(colour.lower(), f"var(--{name})")
    return re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"|(<svg [^>]*?)height="[^"]*"', r"\1\2", drawn, count=1)


def _titled(figure: Figure, axes: Axes, title: str, note: str, legend: Legend | None) -> None:
    if legend == "above":  # where data may lie in every corner
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False, fontsize=10, labelcolor=_INK)
    elif legend:
        axes.legend(loc=legend, frameon=False, fontsize=10, labelcolor=_INK)
    figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold", color=_INK)
    figure.supxlabel(note, x=0.012, ha="left", fontsize=9.5, color=_MUTED)
    FigureCanvasAgg(figure)


def _line(model: str) -> dict[str, Any]:
    return {"color": COLOURS[model], "marker": MARKERS[model], "markersize": 5.5, "linewidth": 1.8}


def _mark(model: str, *, hollow: bool) -> dict[str, Any]:
    face = "white" if hollow else COLOURS[model]
    return {
        "color": COLOURS[model],
        "marker": MARKERS[model],
        "markerfacecolor": face,
        "markersize": 7.5,
        "linestyle": "none",
    }


def _whisker(axes: Axes, d: Difference, place: float, colour: str) -> None:
    if math.isfinite(d.lo):
        axes.plot(
            [100 * d.lo, 100 * d.hi], [place, place], color=colour, linewidth=2, alpha=0.45 if d.flag else 1, zorder=2
        )
    face = "white" if d.flag else colour
    axes.plot(100 * d.estimate, place, "o", color=colour, markerfacecolor=face, markersize=7, zorder=3)


def _side(d: Difference) -> str:
    return "above" if d.lo > 0 else "below" if d.hi < 0 else "across"


def _paired(evaluation: Evaluation, task: str, inputs: str) -> bool:
    return evaluation.has("student", task, inputs) and evaluation.has("control", task, inputs)


def _place(evaluation: Evaluation, task: str) -> str:
    return f"{evaluation.surface.capitalize()} {task}"


def _counts(evaluation: Evaluation, task: str, inputs: str) -> str:
    model = next(m for m in ("student", "control", "champion") if evaluation.has(m, task, inputs))
    r = evaluation.result(model, task, ALL, inputs=inputs)
    positive = f", {r.positives:,} positive" if evaluation.kinds[task] == "binary" else ""
    return f"n = {r.n:,} rows{positive}, {_users(r)}; {inputs} inputs"


def _users(figure: Evaluation | Result | Difference) -> str:
    effective = f" ({figure.effective_users:,.0f} effective)" if figure.effective_users is not None else ""
    return f"{figure.users:,} users{effective}"


def _listed(evaluation: Evaluation, models: Sequence[str], task: str, metric: str, inputs: str, form: str) -> str:
    values = [(m, evaluation.metric(m, task, ALL, metric, inputs)) for m in models]
    return ", ".join(f"{m} {form.format(v)}" for m, v in values)


def _positive_sqrt(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0))


def _thin(ticks: np.ndarray, top: float) -> list[float]:
    """Keep ticks that stand at least 6 % of the axis apart on the square-root scale."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or math.sqrt(tick) - math.sqrt(kept[-1]) > 0.06 * math.sqrt(top):
            kept.append(float(tick))
    return kept
