"""The report of a study for people: Markdown, forest plots, and one self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from inspect import getdoc
from pathlib import Path
from typing import Literal

import pyarrow as pa

from ml.evaluation.page import write_pages
from ml.evaluation.plots import Mark, finish, forest, panels
from ml.evaluation.results import ALL
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from ml.lab.study.analysis import FEWEST_SEEDS, PRIMARY_TASKS, RANKING, Lift, kept, levels, lifts
from ml.lab.study.design import AS_IT_IS, CONTROL, KUAIRAND, PLACEBOS, STUDENT, TEACHER, TECHNIQUES, Condition, Design
from ml.lab.study.run import TRIALS_TABLE
from ml.lab.study.trials import Bench
from ml.lab.study.worlds import is_ready, world_settings
from ml.surfaces.files import load_surfaces
from ml.teacher.contract import load_contract

PAPER = {
    ("homepage", "ctr"): ("CTR, AUC", 79.34, 75.40, 79.55),
    ("homepage", "trail"): ("trail engagement, R2", 31.2, 26.7, 32.0),
    ("homepage", "discovery"): ("discovery, AUC (not distilled)", 76.06, None, 76.22),
    ("radio", "engagement"): ("radio engagement, AUC (not distilled)", 90.30, None, 91.38),
}
"""Control, teacher and student of the paper's offline table (arXiv 2603.28994), x100."""

_TEMPLATE = Path(__file__).with_name("report.md.j2")


class NoTrials(ValueError):
    """A study that was not run here; the message names the command."""


def study_rows(settings: Settings, design: Design) -> pa.Table:
    """Return the lake's rows of a study's trials, of the present code and rows.

    Raises:
        NoTrials: A world of the study or one of its trials is missing.
    """
    name = design.name
    wanted: list[str] = []
    for world, trials in design.by_world().items():
        made = world_settings(settings, world)
        surfaces = load_surfaces(made)
        for teacher, surface in dict.fromkeys((trial.teacher, trial.surface) for trial in trials):
            if not is_ready(settings, world, teacher):
                raise NoTrials(f"study {name}: world {world.name} is missing; run `crossfade study run {name}`")
            bench = Bench(made, surfaces[surface], load_contract(made.home / teacher.name))
            wanted += [bench.trial_digest(t) for t in trials if (t.teacher, t.surface) == (teacher, surface)]
    with Lake(settings) as lake:
        rows = lake.sql(
            f"select * from {ALIAS}.{TRIALS_TABLE} where list_contains(?::varchar[], trial) "
            "order by condition, surface, task, slice, arm, world, seed",
            [wanted],
        )
    if missing := set(wanted) - set(rows["trial"].to_pylist()):
        raise NoTrials(
            f"study {name}: {len(missing)} of {len(wanted)} trials are missing; run `crossfade study run {name}`"
        )
    return rows


Kind = Literal["primary", "placebo", "exploratory"]
VERDICTS: dict[Kind, tuple[str, str]] = {
    "primary": ("**shown**", "**not shown**"),
    "placebo": ("**shown to do nothing**", "**not shown to do nothing**"),
    "exploratory": ("exploratory: so it looks", "exploratory: not so"),
}
"""What a claim of each kind is called where it holds and where it does not."""


@dataclass(frozen=True)
class Finding:
    """A claim of the paper or of the method, and what the study says of it.

    Attributes:
        claim: In one sentence.
        kind: ``primary``: of the one family that is corrected. ``placebo``: that labels without knowledge do nothing,
            within a bound. ``exploratory``: anything else; it may suggest, and shows nothing.
        holds: Whether every difference that it is about lies where the claim says: a primary one with its corrected
            interval, others with their own.
        evidence: The figures.
    """

    claim: str
    kind: Kind
    holds: bool
    evidence: str

    @property
    def verdict(self) -> str:
        """What the study says of the claim, in words."""
        return VERDICTS[self.kind][0 if self.holds else 1]


def findings(
    table: list[Lift], means: dict[tuple[str, str, str], dict[str, float]], judged: "Sequence[Calibration]" = ()
) -> list[Finding]:
    """Judge the paper's claims by a study's table. A claim about several tasks needs all of them."""
    found = _primary(table)
    found += _of_placebos(table)
    found += _of_the_teacher(means)
    counterparts = {(c.surface, c.task) for c in judged if c.variant == TEACHER.name}
    if direct := [
        c.change for c in judged if c.variant == "direct" and c.change and (c.surface, c.task) in counterparts
    ]:
        found.append(
            Finding(
                "Distilling into the serving logit itself (`direct`) biases it: its log loss is above the control's.",
                "exploratory",
                all(change.lo > 0 for change in direct),
                _listed(direct),
            )
        )
    found += _of_new_releases(table)
    return found


def _plain(table: list[Lift], variant: str, slice_: str = ALL) -> list[Lift]:
    """Return the lifts of a variant in the worlds as they are."""
    return [lift for lift in table if lift.variant == variant and lift.slice == slice_ and not lift.condition]


def _primary(table: list[Lift]) -> list[Finding]:
    """Judge that the student beats its control, task by task."""
    found: list[Finding] = []
    for task, claim in zip(
        PRIMARY_TASKS,
        (
            "The student beats its control on CTR.",
            "The student beats its control on trail engagement.",
            "A task that is not distilled improves: discovery.",
            "A task foreign to the teacher improves through a non-serving head: radio engagement.",
        ),
        strict=True,
    ):
        for lift in table:
            if (lift.surface, lift.task) == task and lift.corrected is not None:
                c = lift.corrected
                evidence = f"{100 * lift.lift:+.2f} [{100 * c.lo:+.2f}, {100 * c.hi:+.2f}], p {c.p:.3f}"
                if lift.worlds == 1 and lift.seeds < FEWEST_SEEDS:
                    evidence += f"; {lift.seeds} of the {FEWEST_SEEDS} initialisations that one world needs"
                found.append(Finding(claim, "primary", lift.shown, evidence))
    return found


def _of_the_teacher(means: dict[tuple[str, str, str], dict[str, float]]) -> list[Finding]:
    below = {k: v for k, v in means.items() if k[2] == ALL and "teacher" in v and "control" in v}
    texts = [
        f"{s} {t}: teacher {100 * v['teacher']:.2f}, control {100 * v['control']:.2f}" for (s, t, _), v in below.items()
    ]
    worse = all(v["teacher"] < v["control"] for v in below.values())
    claim = "The teacher is worse on the app than the control that it helps."
    return [Finding(claim, "exploratory", worse, "; ".join(texts))] if below else []


def _of_placebos(table: list[Lift]) -> list[Finding]:
    """Judge that labels without knowledge do nothing, and that nothing is gained where nothing is shared.

    Both are equivalence: the whole interval lies within a quarter of the lower end of the technique's own interval on
    that task, in the worlds as they are. Where that end is not above 0 there is no bound, and nothing is shown.
    """
    found: list[Finding] = []
    for technique in (STUDENT, *TECHNIQUES):
        real = {(lift.surface, lift.task): lift for lift in _plain(table, technique)}
        placebos = [lift for labels in PLACEBOS for lift in _plain(table, f"{technique} {labels}")]
        if placebos and real:
            claim = f"The placebos of `{technique}` do nothing: they stay within a quarter of its lift's lower end."
            found.append(Finding(claim, "placebo", *_equivalence(placebos, real)))
    real = {(lift.surface, lift.task): lift for lift in _plain(table, STUDENT)}
    unshared = [x for x in table if (x.condition, x.variant, x.slice) == ("shared_taste 0", STUDENT, ALL)]
    if unshared:
        claim = "Where the platforms share no taste, the student gains less than a quarter of its lift's lower end."
        found.append(Finding(claim, "exploratory", *_equivalence(unshared, real)))
    return found


def _equivalence(nothing: list[Lift], real: dict[tuple[str, str], Lift]) -> tuple[bool, str]:
    """Return whether every interval lies within a quarter of the real lift's lower end, and the figures."""
    texts: list[tuple[bool, str]] = []
    for x in nothing:
        own = real[x.surface, x.task]
        bound = (own.corrected or own).lo / 4
        inside = -bound < x.lo and x.hi < bound
        what = f"{x.surface} {x.task}, {x.variant.split()[-1]} {100 * x.lo:+.2f} to {100 * x.hi:+.2f}"
        limit = f"within {100 * bound:.2f}" if bound > 0 else "no bound, the lift's interval reaches 0"
        texts.append((inside, f"{'' if inside else '**not** '}{what}, {limit}"))
    return all(inside for inside, _ in texts), "; ".join(text for _, text in sorted(texts, key=lambda x: x[0]))


def _of_new_releases(table: list[Lift]) -> list[Finding]:
    fresh = {(lift.surface, lift.task): lift for lift in _plain(table, STUDENT, "new_releases")}
    gains = [
        (lift, fresh[lift.surface, lift.task]) for lift in _plain(table, STUDENT) if (lift.surface, lift.task) in fresh
    ]
    most = all(new.lo > every.hi for every, new in gains)
    evidence = _listed([new for _, new in gains]) + " on new releases"
    return [Finding("New releases gain most.", "exploratory", most, evidence)] if gains else []


@dataclass(frozen=True)
class Calibration:
    """How well the probabilities of a variant fit, over worlds and seeds.

    Attributes:
        surface: Name of the surface.
        task: Name of a binary task.
        variant: Name of the variant, the control and the teacher among them.
        predicted_over_observed: Mean probability over the share of positives; 1 is right.
        log_loss: Mean log loss.
        change: Difference of its log loss to the control's; None for the control and the teacher.
    """

    surface: str
    task: str
    variant: str
    predicted_over_observed: float
    log_loss: float
    change: Lift | None


def calibration(rows: pa.Table, design: Design) -> list[Calibration]:
    """Return the calibration of every variant that learns from the teacher's own labels, control and teacher first."""
    changes = {(x.surface, x.task, x.variant): x for x in lifts(rows, design, metrics=("log_loss",)) if not x.condition}
    ratios = levels(rows, ("predicted_over_observed",))
    variants = (
        CONTROL,
        TEACHER.name,
        *(v.name for v in design.variants if v.labels == "as_is" and v.ids and not v.reads_teacher),
    )
    return [
        Calibration(surface, task, variant, ratios[surface, task, slice_][variant], losses[variant], change)
        for (surface, task, slice_), losses in levels(rows, ("log_loss",)).items()
        if slice_ == ALL
        for variant in variants
        if variant in losses
        for change in [changes.get((surface, task, variant))]
    ]


@dataclass(frozen=True)
class Source:
    """What a task had to learn from under one condition, and what the teacher knew of it; means over worlds.

    Attributes:
        condition: Label of the condition; empty where nothing differs.
        surface: Name of the surface.
        task: Name of the task.
        rows: Labelled evaluation rows of a world.
        positives: Of a binary task, else None.
        control: The control's AUC or R2.
        teacher: The teacher's own, None where it has no counterpart.
        ratio: The teacher's mean probability over the share of positives, None but for binary counterparts.
    """

    condition: str
    surface: str
    task: str
    rows: float
    positives: float | None
    control: float
    teacher: float | None
    ratio: float | None


def sources(rows: pa.Table, design: Design) -> list[Source]:
    """Return what every task had to learn from, condition by condition."""
    counts: dict[tuple[str, str, str], list[tuple[int, int | None]]] = {}
    for row in rows.select(["condition", "surface", "task", "slice", "arm", "n", "positives"]).to_pylist():
        if row["arm"] == CONTROL and row["slice"] == ALL:
            place = (row["condition"], row["surface"], row["task"])
            counts.setdefault(place, []).append((row["n"], row["positives"]))
    found: list[Source] = []
    for condition in design.conditions:
        means, ratios = (levels(rows, metrics, condition.label) for metrics in (RANKING, ("predicted_over_observed",)))
        for (surface, task, slice_), variants in means.items():
            seen = counts.get((condition.label, surface, task))
            if slice_ != ALL or not seen:
                continue
            positives = [p for _, p in seen if p is not None]
            found.append(
                Source(
                    condition.label,
                    surface,
                    task,
                    rows=sum(n for n, _ in seen) / len(seen),
                    positives=sum(positives) / len(positives) if positives else None,
                    control=variants[CONTROL],
                    teacher=variants.get(TEACHER.name),
                    ratio=ratios.get((surface, task, ALL), {}).get(TEACHER.name),
                )
            )
    return found


def plots_of(table: list[Lift], design: Design) -> dict[str, bytes]:
    """Return the plots of a study's table as PNG: a forest per slice, the levels of each dial."""
    plots = {slice_: forest_plot(table, slice_) for slice_ in dict.fromkeys(lift.slice for lift in table)}
    return plots | {dial: sweep_plot(table, dial) for dial in design.dials}


def write_report(settings: Settings, design: Design, out: Path) -> list[Path]:
    """Write a study's report and return its files: Markdown, an HTML page beside it, and the plots in ``<stem>/``.

    Raises:
        NoTrials: The study was not run to its end here.
    """
    rows = study_rows(settings, design)
    table, means = lifts(rows, design), levels(rows)
    plots, judged = plots_of(table, design), calibration(rows, design)
    facts: dict[str, object] = {
        "design": design,
        "table": table,
        "means": means,
        "paper": PAPER,
        "all": ALL,
        "findings": (found := findings(table, means, judged)),
        "placebo_findings": [finding for finding in found if finding.kind == "placebo"],
        "kept": kept(rows, design),
        "calibration": judged,
        "conditions": sources(rows, design),
        "levels_of": {d: [c.label for c in design.conditions if c.label.startswith(f"{d} ")] for d in design.dials},
        "affine": levels(rows, ("r2_affine",)),
        "kuairand": design.preset == KUAIRAND,
        "against": lifts(rows, design, against=design.against)
        if design.against in {variant.name for variant in design.variants}
        else [],
        "baseline": design.against,
        "slices": list(dict.fromkeys(lift.slice for lift in table)),
        "dials": {dial: _meaning(dial) for dial in design.dials},
        "seconds": sum({r["trial"]: r["seconds"] for r in rows.to_pylist()}.values()),
        "torch": version("torch"),
    }
    return write_pages(_TEMPLATE, facts, plots, out, f"Crossfade: study {design.name}")


def forest_plot(table: list[Lift], slice_: str) -> bytes:
    """Plot every variant's difference to its control with its interval, a line each per task; placebos are hollow."""
    shown = [lift for lift in table if lift.slice == slice_ and not lift.condition]
    groups: dict[str, list[Mark]] = {}
    for x in shown:
        name, colour = (f"{x.variant} (placebo)", "#7F7F7F") if x.placebo else (x.variant, "#0072B2")
        mark = Mark(name, x.lift, x.lo, x.hi, colour, x.placebo)
        groups.setdefault(f"{x.surface} {x.task}, {x.metric.upper()}", []).append(mark)
    figure, axes = forest(groups, "difference to the control, x100")
    worlds = max((lift.worlds for lift in shown), default=0)
    alone = "95 % intervals over initialisations and users"
    over = f"{worlds} worlds; 95 % intervals over worlds" if worlds > 1 else alone
    title = f"What each variant changes, {'all rows' if slice_ == ALL else slice_.replace('_', ' ')}"
    return finish(figure, axes, title, f"{over}, each for itself")


def sweep_plot(table: list[Lift], dial: str) -> bytes:
    """Plot the difference to the control at every level of a dial, a panel per task; first as it is."""
    turned = [x for x in table if x.slice == ALL and x.condition.startswith(f"{dial} ")]
    variant = turned[0].variant
    labels = sorted({x.condition for x in turned}, key=_level)
    levels_ = [AS_IT_IS.label, *labels]
    mine = [x for x in table if x.slice == ALL and x.variant == variant and x.condition in levels_]
    tasks = list(dict.fromkeys((lift.surface, lift.task, lift.metric) for lift in mine))
    figure, axes = panels(3.4, len(tasks))
    for axis, (surface, task, metric) in zip(axes, tasks, strict=True):
        at = {x.condition: x for x in mine if (x.surface, x.task) == (surface, task)}
        for place, level in enumerate(levels_):
            if level in at:
                axis.plot([place, place], [100 * at[level].lo, 100 * at[level].hi], color="#0072B2", linewidth=2)
                axis.plot(place, 100 * at[level].lift, "o", color="#0072B2", markersize=6.5)
        axis.axhline(0, color="#1F2933", linewidth=1)
        axis.set_xticks(range(len(levels_)), ["as it is", *(level.split()[1] for level in levels_[1:])], fontsize=8)
        axis.set_xlim(-0.5, len(levels_) - 0.5)
        axis.set_title(f"{surface} {task}, {metric.upper()}", fontsize=10)
    axes[0].set_ylabel(f"{variant} - control, x100")
    over = "worlds" if max(x.worlds for x in mine) > 1 else "initialisations and users"
    note = f"95 % intervals over {over}, each for itself; the first point is without any change"
    return finish(figure, axes[0], f"What {variant} gains at levels of {dial}", note)


def _level(label: str) -> tuple[float, ...]:
    """Return the level of a condition of one dial, as a key to sort by."""
    return tuple(float(number) for number in label.split()[1].split("+"))


def _meaning(dial: str) -> str:
    """Return what a dial is, from the docstring that defines it."""
    doc = getdoc(Condition) or ""
    lines = doc.split("Attributes:")[1].splitlines()
    at = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{dial}:"))
    text = [lines[at].split(":", 1)[1].strip()]
    for line in lines[at + 1 :]:
        if not line.startswith(" " * 8):
            break
        text.append(line.strip())
    return " ".join(text)


def _listed(table: list[Lift]) -> str:
    return "; ".join(f"{x.surface} {x.task} {100 * x.lift:+.2f} [{100 * x.lo:+.2f}, {100 * x.hi:+.2f}]" for x in table)
