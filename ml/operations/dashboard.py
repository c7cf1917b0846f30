"""The dashboard: the app's weeks on one page that needs no other file, light or dark as its reader's screen is."""

from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

from ml.evaluation.plots import COLOURS, METRIC_NAMES, canvas, date2num, dated, finish_themed, stack
from ml.operations.page import page
from ml.operations.weeks import Evaluated, ServedDay, Weeks

_TEMPLATE = Path(__file__).with_name("dashboard.html.j2")
_OUTCOMES = {
    "promoted": ("o", COLOURS["champion"], "promoted"),
    "popularity serves": ("s", COLOURS["baseline"], "popularity serves"),
    "other move": ("D", COLOURS["student"], "rolled back, overruled or recovered"),
    "pass": ("o", "white", "passed, not promoted"),
    "inconclusive": ("^", COLOURS["teacher"], "undecided"),
    "refused": ("X", COLOURS["control"], "refused"),
}
"""Marker, colour and meaning: no two differ by colour alone."""

_MOVES = ("promoted", "popularity serves", "other move")
"""What changed what serves stands below the line, what the gate decided otherwise above it."""


def rows(found: Sequence[Weeks]) -> list[dict[str, object]]:
    """Return a row per surface, day and task: the gain with its interval, calibration, and what the gate decided."""
    return [
        {
            "surface": weeks.surface,
            "day": str(day.day),
            "task": task,
            "metric": day.metrics[task],
            "student - control": gain.estimate,
            "lo": gain.lo,
            "hi": gain.hi,
            "users": gain.users,
            "ece": day.calibration[task].ece if task in day.calibration else None,
            "predicted / observed": day.calibration[task].predicted_over_observed if task in day.calibration else None,
            "teacher age, days": day.teacher_age,
            "gate": day.decision or "not judged",
        }
        for weeks in found
        for day in weeks.evaluated
        for task, gain in day.gains.items()
    ]


def as_page(found: Sequence[Weeks], title: str, made: datetime) -> str:
    """Return the dashboard as HTML; text of lake and stores is shown, never run."""
    surfaces = [{"weeks": weeks, "facts": _facts(weeks), "plots": _plots(weeks)} for weeks in found]
    written, timeline = f"{made:%Y-%m-%d %H:%M} UTC", _timeline(found)
    return page(_TEMPLATE, surfaces=surfaces, title=title, made=written, timeline=timeline, told=_told)


def _facts(weeks: Weeks) -> dict[str, str]:
    """Return what a team lead asks first."""
    last = weeks.evaluated[-1] if weeks.evaluated else None
    behind = (weeks.newest - weeks.features).days if weeks.newest and weeks.features else None
    latest = weeks.covered[-1] if weeks.covered else None
    return {
        "serves": weeks.champion or "nothing",
        "newest candidate": f"{last.day}: {last.decision or 'not judged'}" if last else "none",
        "teacher": f"{last.teacher_age} days old" if last and last.teacher_age is not None else "age not known",
        "features": "none published"
        if weeks.features is None
        else f"of {weeks.features}" + (f", {behind} days behind" if behind and behind > 0 else ""),
        **({"served log": _served(weeks.served)} if weeks.served else {}),
        "soft labels": f"{100 * latest.share:.1f} % of {latest.rows:,} rows of {latest.day}" if latest else "none",
    }


def _served(day: ServedDay) -> str:
    worst = [f"{name} unequal in {share:.1%}" for name, share in list(day.unequal.items())[:2]]
    ratios = [f"predicted / observed {task} {ratio:.2f}" for task, ratio in day.ratios.items()]
    told = ", ".join([*(worst or ["no input unequal"]), *ratios])
    return f"{day.day}, {day.matched:,} exposures: {told}"


def _plots(weeks: Weeks) -> list[str]:
    plots = []
    if weeks.evaluated:
        plots.append(_lift(weeks))
        if any(day.calibration for day in weeks.evaluated):
            plots.append(_calibration(weeks))
    if weeks.covered:
        plots.append(_coverage(weeks))
    return plots


def _lift(weeks: Weeks) -> str:
    """Draw the lift over days with its interval, a panel per task."""
    tasks = list(dict.fromkeys(task for day in weeks.evaluated for task in day.gains))
    figure, panels = stack(1.2 + 1.35 * len(tasks), len(tasks))
    for axes, task in zip(panels, tasks, strict=True):
        days = [day for day in weeks.evaluated if task in day.gains]
        axes.axhline(0, color="#1F2933", linewidth=1)
        for day in days:
            gain, at = day.gains[task], date2num(day.day)
            axes.vlines(at, 100 * gain.lo, 100 * gain.hi, color=COLOURS["student"], linewidth=2)
            face = "white" if gain.flag else COLOURS["student"]
            axes.plot(at, 100 * gain.estimate, "o", color=COLOURS["student"], markerfacecolor=face, markersize=7)
        axes.set_ylabel(f"{task}\n{METRIC_NAMES.get(days[-1].metrics[task], days[-1].metrics[task])} x 100")
    dated(panels[-1], [day.day for day in weeks.evaluated])
    last = weeks.evaluated[-1]
    told = ", ".join(f"{task} {100 * gain.estimate:+.2f}" for task, gain in last.gains.items())
    note = "95 % paired bootstrap over users of each day's evaluation; hollow: too few rows"
    return finish_themed(figure, panels[0], f"{weeks.surface}, student - control on {last.day}: {told}", note)


def _calibration(weeks: Weeks) -> str:
    """Draw how the student's predictions compare with what happened, over days, a panel per binary task."""
    tasks = list(dict.fromkeys(task for day in weeks.evaluated for task in day.calibration))
    figure, panels = stack(1.2 + 1.2 * len(tasks), len(tasks))
    for axes, task in zip(panels, tasks, strict=True):
        days = [day for day in weeks.evaluated if task in day.calibration]
        axes.axhline(1, color="#1F2933", linewidth=1)
        ratios = [day.calibration[task].predicted_over_observed for day in days]
        axes.plot([date2num(day.day) for day in days], ratios, marker="o", color=COLOURS["student"], linewidth=1.8)
        reach = 1.2 * max(0.1, *(abs(ratio - 1) for ratio in ratios))
        axes.set_ylim(1 - reach, 1 + reach)
        axes.set_ylabel(task)
    dated(panels[-1], [day.day for day in weeks.evaluated])
    last = weeks.evaluated[-1]
    told = ", ".join(f"{task} {found.predicted_over_observed:.2f}" for task, found in last.calibration.items())
    errors = ", ".join(f"{task} {found.ece:.3f}" for task, found in last.calibration.items())
    note = f"inputs as logged, as the gate judges; expected calibration error {errors}"
    return finish_themed(figure, panels[0], f"{weeks.surface}, predicted / observed on {last.day}: {told}", note)


def _coverage(weeks: Weeks) -> str:
    """Draw the share of each day's examples that has soft labels."""
    figure, axes = canvas(2.6)
    days = [date2num(day.day) for day in weeks.covered]
    shares = [100 * day.share for day in weeks.covered]
    axes.bar(days, shares, width=0.7, color=COLOURS["student"])
    axes.set_ylim(0, 105)
    axes.set_ylabel("% of rows")
    dated(axes, [day.day for day in weeks.covered])
    least = min(weeks.covered, key=lambda day: day.share)
    fewest = f"{100 * least.share:.1f} % of the rows of {least.day}, the day with fewest"
    title = f"{weeks.surface}, soft labels: {'every row of every day' if least.share == 1 else fewest}"
    rows = sum(day.rows for day in weeks.covered)
    return finish_themed(figure, axes, title, f"{rows:,} rows of {len(days)} days")


def _timeline(found: Sequence[Weeks]) -> str | None:
    """Draw what was promoted, refused and moved, a line per surface."""
    marks = {weeks.surface: _marks(weeks) for weeks in found}
    days = [day for of in marks.values() for day, _ in of]
    if not days:
        return None
    figure, axes = canvas(1.9 + 0.5 * len(marks))
    seen: set[str] = set()
    for place, of in enumerate(marks.values()):
        axes.axhline(place, color="#E3E7EC", linewidth=1, zorder=1)
        for day, kind in of:
            marker, colour, meaning = _OUTCOMES[kind]
            label = None if kind in seen else meaning
            seen.add(kind)
            edge = COLOURS["champion"] if colour == "white" else colour
            at = date2num(day), place + (0.16 if kind in _MOVES else -0.16)
            axes.plot(*at, marker, color=edge, markerfacecolor=colour, markersize=10, label=label, zorder=3)
    axes.set_yticks(range(len(marks)), list(marks))
    axes.set_ylim(len(marks) - 0.4, -0.9)
    axes.grid(axis="y", visible=False)
    dated(axes, days)
    refused = sum(kind == "refused" for of in marks.values() for _, kind in of)
    promoted = sum(kind == "promoted" for of in marks.values() for _, kind in of)
    title = f"Releases and refusals: {promoted} promoted, {refused} refused"
    axes.legend(loc="upper left", ncols=len(seen), frameon=False, fontsize=10, labelcolor="#1F2933")
    return finish_themed(
        figure,
        axes,
        title,
        "at the day of the candidate; above the line: kept back by the gate; below it: serves from then on",
    )


def _marks(weeks: Weeks) -> list[tuple[date, str]]:
    moved = [(m.day, m.what if m.what in _OUTCOMES else "other move") for m in weeks.moved]
    served = {day for day, _ in moved}
    judged = {"pass": "pass", "inconclusive": "inconclusive"}
    others = [
        (day.day, judged.get(day.decision, "refused"))
        for day in weeks.evaluated
        if day.decision and (day.day not in served or day.decision != "pass")
    ]
    return sorted(others + moved)


def _told(day: Evaluated, task: str) -> str:
    """Return a gain with its interval for people; AUC x 100, R2 as it is."""
    gain = day.gains[task]
    scale, digits = (100, 2) if day.metrics[task] == "auc" else (1, 3)
    value, lo, hi = (f"{scale * figure:+.{digits}f}" for figure in (gain.estimate, gain.lo, gain.hi))
    return f"{value} [{lo}, {hi}]" + ("*" if gain.flag else "")
