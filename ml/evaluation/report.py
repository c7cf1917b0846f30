"""The figures of an evaluation as the demo's report: plain values for ``demo.json``, and a table for the terminal."""

import math
from collections.abc import Mapping
from typing import NotRequired, Required, TypedDict, cast

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ml.evaluation.predictions import INPUTS
from ml.evaluation.results import (
    ALL,
    LOWER_IS_BETTER,
    SHOWN,
    Difference,
    Evaluation,
    OffPolicy,
    OffPolicyValue,
    Result,
    Transfer,
)
from ml.surfaces.spec import Surface

_MODELS = ("teacher", "control", "student", "champion", "baseline", "incumbent")
_WIDTH = 92


class Figures(TypedDict):
    """A task's figures over the rows of a slice; null where one is undefined or there is no such model."""

    metric: str
    teacher: float | None
    control: float | None
    student: float | None
    champion: NotRequired[float | None]
    baseline: NotRequired[float | None]
    incumbent: NotRequired[float | None]
    delta: float | None
    delta_lo: float | None
    delta_hi: float | None
    mde: float | None
    n: int
    positives: int | None
    users: int
    positive_users: int | None
    effective_users: float
    flag: str | None
    transfer: NotRequired[Mapping[str, float | None] | None]
    other_metrics: Mapping[str, Mapping[str, float | None]]
    logged: NotRequired["Figures"]


Tasks = Mapping[str, Figures]
"""{task: its figures}."""


class SurfaceReport(TypedDict):
    """What the report of a demo says about a surface."""

    partition: NotRequired[str]
    days: NotRequired[list[str]]
    rows: Mapping[str, int]
    users: NotRequired[int]
    effective_users: NotRequired[float | None]
    training_rows_of_users: NotRequired[Mapping[str, str]]
    defaulted_input_share: NotRequired[float | None]
    parameters: NotRequired[Mapping[str, int | None]]
    tasks: Tasks
    slices: NotRequired[Mapping[str, Tasks]]
    undertrained: NotRequired[list[str]]
    incumbent: NotRequired[list[str]]
    off_policy: NotRequired[list[str]]
    verdict: Mapping[str, str] | None
    release: Mapping[str, str] | None
    answer: NotRequired[Mapping[str, object] | None]
    spread: NotRequired[Mapping[str, float]]


class Report(TypedDict, total=False):
    """The content of ``demo.json``."""

    source: str
    seconds: Mapping[str, float]
    peak_rss_mb: float
    landing: Mapping[str, int]
    surfaces: Required[Mapping[str, SurfaceReport]]


def surface_report(
    evaluation: Evaluation,
    surface: Surface,
    *,
    rows: Mapping[str, int],
    defaulted_input_share: float | None,
    parameters: Mapping[str, int | None],
    verdict: Mapping[str, str] | None,
    release: Mapping[str, str] | None,
) -> SurfaceReport:
    """Return one surface's part of ``demo.json``.

    Headline figures have the inputs that are known only after ranking at their serving value; ``logged`` holds the same
    figures with them as logged, as the paper reports them. AUC and R2 are fractions, not percent. The teacher's figure
    is its raw output's; null where a task has no counterpart. Undefined figures are null.

    Args:
        evaluation: Evaluated partition.
        surface: Its tasks and slices, in their order.
        rows: Examples of the days of ``train`` and of ``test``.
        defaulted_input_share: Share of teacher inputs that took the contract's default; None without a teacher model.
        parameters: Trained parameters of ``teacher`` and ``student``.
        verdict: ``decision`` and ``path`` of the gate's verdict.
        release: ``id`` and ``path``; None where the gate refused.
    """
    report: SurfaceReport = {
        "partition": evaluation.partition.isoformat(),
        "days": [day.isoformat() for day in evaluation.days],
        "rows": dict(rows),
        "users": evaluation.users,
        "effective_users": evaluation.effective_users,
        "training_rows_of_users": dict(evaluation.history),
        "defaulted_input_share": defaulted_input_share,
        "parameters": dict(parameters),
        "tasks": _tasks(evaluation, surface, ALL),
        "slices": {name: _tasks(evaluation, surface, name) for name in evaluation.slices if name != ALL},
        "undertrained": undertrained(evaluation),
        "incumbent": against_incumbent(evaluation, surface),
        "verdict": None if verdict is None else dict(verdict),
        "release": None if release is None else dict(release),
    }
    if evaluation.off_policy:
        report["off_policy"] = earned(evaluation)
    return report


def markdown_summary(evaluation: Evaluation, surface: Surface) -> str:
    """Return control, teacher, student and their paired difference per task and slice as a Markdown table.

    Inputs that are known only after ranking stand at their serving value. AUC x 100, R2 as it is.
    """
    lines = [
        f"{evaluation.days[0]} to {evaluation.days[-1]}, {evaluation.rows:,} rows, {evaluation.users:,} users; "
        "AUC x 100; 95 % paired bootstrap over users; * too few rows or positives.",
        "",
        "| slice | task | control | teacher | student | student - control | n | positive | effective users |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in evaluation.slices:
        for task, figures in _tasks(evaluation, surface, name).items():
            cells = [name.replace("_", " "), f"{task} {figures['metric'].upper()}", *_cells(figures)]
            lines.append("| " + " | ".join(str(cell).strip().replace("*", "\\*") for cell in cells) + " |")
    told = [transfer_text(task, figures) for task, figures in _tasks(evaluation, surface, ALL).items()]
    lines += ["", *(f"- {text}" for text in told if text)]
    told = [*undertrained(evaluation), *against_incumbent(evaluation, surface), *earned(evaluation)]
    lines += [f"- {text}" for text in told]
    lost = _lost({name: _tasks(evaluation, surface, name) for name in evaluation.slices if name != ALL})
    return "\n".join([*lines, *(f"- {text}" for text in lost)])


def undertrained(evaluation: Evaluation) -> list[str]:
    """Say of which tasks the control lies below a linear model of the same inputs by its interval."""
    return [str(gain) for gain in evaluation.linear if gain.undertrained]


def against_incumbent(evaluation: Evaluation, surface: Surface) -> list[str]:
    """Say how the student does against the app's present ranker, and on how many rows that has a score."""
    if surface.incumbent is None:
        return []
    name = f"the app's present ranker ({surface.incumbent.version})"
    found = []
    for task in surface.incumbent.scores.keys() & surface.tasks.keys():
        if not evaluation.has("incumbent", task):
            found.append(f"{task}: {name} has no score of any evaluation row")
            continue
        metric, gain = evaluation.primary(task), evaluation.difference("student", "incumbent", task)
        own = _shown(metric, _number(evaluation.metric("incumbent", task)))
        bounds = ", ".join(_shown(metric, _number(end), signed=True) for end in (gain.lo, gain.hi))
        found.append(
            f"{task}: {name} has {metric.upper()} {own}; student - incumbent "
            f"{_shown(metric, _number(gain.estimate), signed=True)} [{bounds}], on the {gain.n:,} rows that it scored"
        )
    return sorted(found)


def earned(evaluation: Evaluation) -> list[str]:
    """Say what the first choices of student and control would earn, where exposures carry propensities."""
    if (known := evaluation.off_policy) is None:
        return []
    rows = f"{known.rows:,} rows of {known.lists:,} lists with known propensities"
    odd = "" if known.adds_up else f", which add up to {known.added:.2f} in place of 1"
    lines = [f"off-policy: {rows}{odd}; {known.alone:,} more leave no choice"]
    for task in evaluation.kinds:
        lines += [text for model in ("student", "control", "champion") if (text := _earned(known, task, model))]
    return lines


def _earned(known: OffPolicy, task: str, model: str) -> str | None:
    own, snips = known.value(model, task), known.value(model, task, estimator="snips")
    if own is None or snips is None:
        return None

    def shown(found: OffPolicyValue, sign: str = "") -> str:
        value, lo, hi = (f"{100 * end:{sign}.2f}" for end in (found.value, found.lo, found.hi))
        return f"{value} [{lo}, {hi}]"

    differences = [
        f"{shown(found, '+')} to {told}"
        for other, told in ((SHOWN, "what was shown"), ("control", "the control's"))
        if (found := known.value(model, task, other))
    ]
    return (
        f"{task} x 100: the {model}'s first choice would earn {shown(own)} doubly robust, {shown(snips)} by SNIPS; "
        f"{', '.join(differences)}; {own.effective_rows:,.0f} effective rows, {own.effective_positives:,.0f} positive; "
        f"{own.clipped:.1%} of the weights clipped"
    )


def _lost(slices: Mapping[str, Tasks]) -> list[str]:
    """Say in which slices the student loses by its interval, which the figures of all rows may hide."""
    return [
        f"The student loses to its control in {name.replace('_', ' ')}: {task} {_delta(figures).plain}"
        for name, tasks in slices.items()
        for task, figures in tasks.items()
        if (highest := figures.get("delta_hi")) is not None and highest < 0
    ]


def _tasks(evaluation: Evaluation, surface: Surface, name: str) -> dict[str, Figures]:
    return {
        task: {
            **_figures(evaluation, task, name, "serving"),
            "logged": _figures(evaluation, task, name, "logged"),
        }
        for task in surface.tasks
        if any(evaluation.has("control", task, inputs) for inputs in INPUTS)
    }


def _figures(evaluation: Evaluation, task: str, name: str, inputs: str) -> Figures:
    present = [m for m in _MODELS if evaluation.has(m, task, inputs)]
    found: dict[str, object] = {"metric": evaluation.primary(task)}
    found |= {m: None for m in ("teacher", "control", "student")}
    found |= {m: _number(evaluation.metric(m, task, name, inputs=inputs)) for m in present}
    found |= dict.fromkeys(("delta", "delta_lo", "delta_hi", "mde"))
    if {"student", "control"} <= set(present):
        d = evaluation.difference("student", "control", task, name, inputs=inputs)
        found |= {"delta": _number(d.estimate), "delta_lo": _number(d.lo), "delta_hi": _number(d.hi)}
        found |= {"mde": _number(d.mde)} | _counted(d)
    elif "control" in present:
        r = evaluation.result("control", task, name, inputs=inputs)
        found |= _counted(r)
    others = {r.metric for r in evaluation.results if r.task == task} - {evaluation.primary(task)}
    if name == ALL and inputs == "serving":
        found["transfer"] = next((_transfer(t) for t in evaluation.transfer if t.task == task), None)
    found["other_metrics"] = {
        metric: {
            m: _number(evaluation.metric(m, task, name, metric, inputs))
            for m in present
            if evaluation.computed(m, task, name, metric, inputs)
        }
        for metric in sorted(others)
    }
    return cast("Figures", found)


def _transfer(transfer: Transfer) -> dict[str, float | None]:
    names = ("stacked", "stacked_lo", "stacked_hi", "kept", "kept_lo", "kept_hi")
    return {name: _number(getattr(transfer, name)) for name in names}


def transfer_text(task: str, figures: Figures) -> str | None:
    """Return in words what could be had from the teacher at least, and which share the student keeps; None without.

    Args:
        task: Name of the task.
        figures: Of the task, as in a report.
    """
    found = figures.get("transfer")
    if not found or found["stacked"] is None:
        return None
    metric = figures["metric"]
    gain, lo, hi = (_shown(metric, found[name], signed=True) for name in ("stacked", "stacked_lo", "stacked_hi"))
    shares = [share for name in ("kept", "kept_lo", "kept_hi") if (share := found[name]) is not None]
    if len(shares) < 3:
        told = "no share, since nothing is shown to be there"
    else:
        share, low, high = (f"{100 * value:.0f}" for value in shares)
        told = f"the student keeps {share} % [{low}, {high}]"
    return f"{task}: control and teacher stacked {gain} [{lo}, {hi}] over the control; {told}"


def _counted(figure: Result | Difference) -> dict[str, object]:
    names = ("n", "positives", "users", "positive_users", "effective_users", "flag")
    return {name: getattr(figure, name) for name in names}


def print_report(report: Report, console: Console | None = None) -> None:
    """Print a whole demo report (the content of ``demo.json``) as tables in the manner of the paper.

    AUC stands x 100, R2 as it is. A difference is green above 0 and red below 0 by its interval; ``*`` marks too few
    rows or positives.
    """
    console = console or Console(width=max(_WIDTH, Console().width))
    landing, seconds = report.get("landing", {}), report.get("seconds", {})
    facts = [f"source {report['source']}"] if "source" in report else []
    if "total" in seconds:
        facts.append(f"{seconds['total']:.0f} s")
    if "peak_rss_mb" in report:
        facts.append(f"peak memory {report['peak_rss_mb']:,.0f} MB")
    if landing:
        facts.append(f"{landing['rows_in']:,} rows landed, {landing['rows_quarantined']:,} quarantined")
    console.print(Text("  ·  ".join(facts), style="bold"))
    for name, surface in report["surfaces"].items():
        console.print()
        console.print(_table(name, surface))
        for line in _outcome(surface):
            console.print(line, soft_wrap=True)  # a path is copied whole
    console.print(Text("AUC x 100. [..]: 95 % paired bootstrap over users. *: too few rows or positives.", style="dim"))
    console.print(Text("eff.: effective users; so many with equally many rows would say as much.", style="dim"))


def _table(name: str, surface: SurfaceReport) -> Table:
    rows = surface["rows"]
    title = f"{name}: {rows['train']:,} training rows, {rows['test']:,} evaluation rows"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("task", no_wrap=True)
    for header in ("control", "teacher", "student", "student - control", "n", "positive", "eff."):
        table.add_column(header, justify="right", no_wrap=True)
    groups = {ALL: surface["tasks"], **surface.get("slices", {})}
    for group, tasks in groups.items():
        if group != ALL:
            table.add_section()
            table.add_row(Text(group.replace("_", " "), style="italic"))
        for task, figures in tasks.items():
            table.add_row(f"{task} {figures.get('metric', '').upper()}", *_cells(figures))
    return table


def _cells(figures: Figures) -> list[str | Text]:
    models = [_shown(figures.get("metric"), figures.get(m)) for m in ("control", "teacher", "student")]
    names = ("n", "positives", "effective_users")
    counts = [f"{figures[name]:,.0f}" if figures.get(name) is not None else "-" for name in names]
    return [*models, _delta(figures), *counts]


def gain_text(surface: SurfaceReport) -> str:
    """Return what the student gains over its control on each task, with its interval; AUC x 100, R2 as it is."""
    return ", ".join(f"{task} {_delta(figures).plain.strip()}" for task, figures in surface["tasks"].items())


def spread_text(surface: SurfaceReport) -> str:
    """Return in words what another initialisation alone would move; the report of a demo holds a single one."""
    metrics = {task: figures["metric"] for task, figures in surface["tasks"].items()}
    known = [f"{t} {_shown(metrics[t], value)}" for t, value in (surface.get("spread") or {}).items() if t in metrics]
    if not known:
        return "one initialisation; what another one moves was not measured at this size (`crossfade study spread`)"
    return f"one initialisation; another one moves student - control by (one deviation): {', '.join(known)}"


def _outcome(surface: SurfaceReport) -> list[Text]:
    lines = [Text(f"  {spread_text(surface)}", style="dim")]
    lines += [
        Text(f"  {text}", style="dim")
        for text in (transfer_text(task, figures) for task, figures in surface["tasks"].items())
        if text
    ]
    share, parameters = surface.get("defaulted_input_share"), surface.get("parameters") or {}
    facts = [f"{model} {n:,} parameters" for model, n in parameters.items() if n is not None]
    facts += [f"{100 * share:.0f} % of teacher inputs at their default"] if share is not None else []
    if facts:
        lines.append(Text("  " + ", ".join(facts), style="dim"))
    weak = [*_lost(surface.get("slices", {})), *surface.get("undertrained", ())]
    lines += [Text(f"  {line}", style="red") for line in weak]
    more = [*surface.get("incumbent", ()), *surface.get("off_policy", ())]
    lines += [Text(f"  {line}", style="dim") for line in more]
    verdict, release = surface.get("verdict"), surface.get("release")
    if verdict:
        passed = verdict["decision"] in ("pass", "warn")
        lines.append(Text("  verdict ") + Text(verdict["decision"], style="bold green" if passed else "bold red"))
        lines[-1].append(f"  {verdict.get('path', '')}", style="dim")
    lines.append(Text("  release " + (release["id"] if release else "none")))
    return lines


def _shown(metric: str | None, value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    scale, digits = (100, 2) if metric == "auc" else (1, 3)
    return f"{scale * value:{'+' if signed else ''}.{digits}f}"


def _delta(figures: Figures) -> Text:
    metric, delta, lo, hi = (figures.get(k) for k in ("metric", "delta", "delta_lo", "delta_hi"))
    if metric is None or delta is None:
        return Text("-")
    weak = "*" if figures.get("flag") else " "
    if lo is None or hi is None:
        return Text(f"{_shown(metric, delta, signed=True)}{weak}")
    better = -1 if metric in LOWER_IS_BETTER else 1
    style = "" if lo <= 0 <= hi else "green" if better * delta > 0 else "red"
    bounds = ", ".join(_shown(metric, bound, signed=True) for bound in (lo, hi))
    return Text(f"{_shown(metric, delta, signed=True)} [{bounds}]{weak}", style=style)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
