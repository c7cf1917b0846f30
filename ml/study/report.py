"""The report of a study for people: Markdown, forest plots, and one self-contained HTML page."""

import base64
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa

from ml.evaluation.evaluate import ALL
from ml.lake import ALIAS, Lake
from ml.settings import Settings
from ml.study.analysis import Lift, levels, lifts
from ml.study.design import Design, load_design
from ml.study.run import TRIALS_TABLE, worlds_dir
from ml.study.worlds import READY_FILE

PAPER = {
    ("homepage", "ctr"): ("CTR, AUC", 79.34, 75.40, 79.55),
    ("homepage", "trail"): ("trail engagement, R2", 31.2, 26.7, 32.0),
    ("homepage", "discovery"): ("discovery, AUC (not distilled)", 76.06, None, 76.22),
    ("radio", "engagement"): ("radio engagement, AUC (not distilled)", 90.30, None, 91.38),
}
"""Control, teacher and student of the paper's offline table (arXiv 2603.28994), x100."""

_TEMPLATES = Path(__file__).parent


class NoTrials(ValueError):
    """A study that was not run here; the message names the command."""


def study_rows(settings: Settings, name: str) -> tuple[Design, pa.Table]:
    """Return a study and the lake's rows of its trials, of the present code and rows.

    Raises:
        NoTrials: A world of the study or one of its trials is missing.
    """
    from ml.study.trials import Bench
    from ml.study.worlds import world_settings
    from ml.surfaces.spec import load_surfaces

    design = load_design(name)
    wanted: list[str] = []
    for world in design.in_worlds():
        made = world_settings(worlds_dir(settings) / world.name, world)
        if not (made.home / READY_FILE).exists():
            raise NoTrials(f"study {name}: world {world.name} is missing; run `crossfade study run {name}`")
        surfaces = load_surfaces(made)
        benches = {surface: Bench(made, surfaces[surface]) for surface in design.surfaces}
        wanted += [benches[trial.surface].trial_digest(trial) for trial in design.trials(world)]
    with Lake(settings) as lake:
        rows = lake.sql(
            f"select * from {ALIAS}.{TRIALS_TABLE} where list_contains(?::varchar[], trial) "
            "order by surface, task, slice, arm, world, seed",
            [wanted],
        )
    if missing := set(wanted) - set(rows["trial"].to_pylist()):
        raise NoTrials(
            f"study {name}: {len(missing)} of {len(wanted)} trials are missing; run `crossfade study run {name}`"
        )
    return design, rows


@dataclass(frozen=True)
class Finding:
    """A claim of the paper or of the method, and what the study says of it.

    Attributes:
        claim: In one sentence.
        shown: Whether the study shows it: every difference that it is about lies on the claimed side with its interval.
        evidence: The figures.
    """

    claim: str
    shown: bool
    evidence: str


def findings(table: list[Lift], means: dict[tuple[str, str, str], dict[str, float]]) -> list[Finding]:
    """Judge the paper's claims by a study's table. A claim about several tasks needs all of them."""

    def of(arm: str, slice_: str = ALL) -> list[Lift]:
        return [lift for lift in table if lift.arm == arm and lift.slice == slice_]

    found: list[Finding] = []
    student = of("student")
    for task, claim in (
        (("homepage", "ctr"), "The student beats its control on CTR."),
        (("homepage", "trail"), "The student beats its control on trail engagement."),
        (("homepage", "discovery"), "A task that is not distilled improves: discovery."),
        (
            ("radio", "engagement"),
            "A task foreign to the teacher improves through a non-serving head: radio engagement.",
        ),
    ):
        mine = [lift for lift in student if (lift.surface, lift.task) == task]
        if mine:
            found.append(Finding(claim, all(lift.lo > 0 for lift in mine), _listed(mine)))
    below = {k: v for k, v in means.items() if k[2] == ALL and "teacher" in v and "control" in v}
    if below:
        texts = [
            f"{s} {t}: teacher {100 * v['teacher']:.2f}, control {100 * v['control']:.2f}"
            for (s, t, _), v in below.items()
        ]
        found.append(
            Finding(
                "The teacher is worse on the app than the control that it helps.",
                all(v["teacher"] < v["control"] for v in below.values()),
                "; ".join(texts),
            )
        )
    for arm, what in (("shuffled", "labels shuffled within the day"), ("noise", "noise for labels")):
        if nulls := of(arm):
            found.append(
                Finding(f"With {what} nothing is gained.", all(lift.lo <= 0 for lift in nulls), _listed(nulls))
            )
    fresh = {(lift.surface, lift.task): lift for lift in of("student", "new_releases")}
    gains = [(lift, fresh[lift.surface, lift.task]) for lift in student if (lift.surface, lift.task) in fresh]
    if gains:
        found.append(
            Finding(
                "New releases gain most.",
                all(new.lo > every.hi for every, new in gains),
                _listed([new for _, new in gains]) + " on new releases",
            )
        )
    return found


def write_report(settings: Settings, name: str, out: Path) -> list[Path]:
    """Write a study's report and return its files: Markdown, an HTML page beside it, and the plots in ``<stem>/``.

    Raises:
        NoTrials: The study was not run to its end here.
    """
    design, rows = study_rows(settings, name)
    table, means = lifts(rows, design), levels(rows)
    plots = {slice_: forest_plot(table, slice_) for slice_ in dict.fromkeys(lift.slice for lift in table)}
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for slice_, png in plots.items():
        (folder / f"{slice_}.png").write_bytes(png)
    facts: dict[str, Any] = {
        "design": design,
        "table": table,
        "means": means,
        "paper": PAPER,
        "all": ALL,
        "findings": findings(table, means),
        "plots": {slice_: f"{folder.name}/{slice_}.png" for slice_ in plots},
        "embedded": {slice_: base64.b64encode(png).decode() for slice_, png in plots.items()},
        "rows": {(r["surface"], r["slice"], r["task"]): (r["n"], r["positives"], r["users"]) for r in rows.to_pylist()},
        "seconds": sum({r["trial"]: r["seconds"] for r in rows.to_pylist()}.values()),
        "torch": version("torch"),
    }
    page = out.with_suffix(".html")
    out.write_text(_environment().get_template("report.md.j2").render(**facts), encoding="utf-8")
    page.write_text(_environment().get_template("report.html.j2").render(**facts), encoding="utf-8")
    return [out, page, *(folder / f"{slice_}.png" for slice_ in plots)]


def forest_plot(table: list[Lift], slice_: str) -> bytes:
    """Plot every arm's difference to its control with its interval, a line per task and arm; nulls are hollow."""
    from ml.evaluation.plots import canvas, finish

    shown = [lift for lift in table if lift.slice == slice_]
    groups = list(dict.fromkeys((lift.surface, lift.task, lift.metric) for lift in shown))
    height = 1.6 + 0.3 * len(shown) + 0.35 * len(groups)
    figure, axes = canvas(height)
    place, places, names = 0.0, [], []
    for surface, task, metric in groups:
        names.append(f"{surface} {task}, {metric.upper()}")
        places.append(place)
        place -= 1
        for lift in (x for x in shown if (x.surface, x.task) == (surface, task)):
            colour = "#7F7F7F" if lift.null else "#0072B2"
            axes.plot([100 * lift.lo, 100 * lift.hi], [place, place], color=colour, linewidth=2)
            face = "white" if lift.null else colour
            axes.plot(100 * lift.lift, place, "o", color=colour, markerfacecolor=face, markersize=6.5)
            names.append(f"{lift.arm}{' (null)' if lift.null else ''}")
            places.append(place)
            place -= 1
        place -= 0.4
    axes.axvline(0, color="#1F2933", linewidth=1)
    axes.set_yticks(places, names)
    axes.set_xlabel("difference to the control, x100")
    axes.set_ylim(places[-1] - 0.8, 0.8)
    worlds = max((lift.worlds for lift in shown), default=0)
    title = f"What each arm changes, {'all rows' if slice_ == ALL else slice_.replace('_', ' ')}"
    return finish(figure, axes, title, f"{worlds} worlds; 95 % intervals over worlds and users")


def _listed(table: list[Lift]) -> str:
    return "; ".join(f"{x.surface} {x.task} {100 * x.lift:+.2f} [{100 * x.lo:+.2f}, {100 * x.hi:+.2f}]" for x in table)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=lambda name: bool(name and ".html." in name),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
