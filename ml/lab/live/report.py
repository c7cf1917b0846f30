"""The report of a live experiment for people: Markdown, plots, and one self-contained HTML page."""

from collections.abc import Sequence
from pathlib import Path

from ml.evaluation.page import write_pages
from ml.experiments.analysis import Effect, effects, effects_by_day
from ml.experiments.plots import ESTIMATES, LABELS, days_plot, effects_plot
from ml.experiments.user_days import METRICS
from ml.foundation.settings import Settings
from ml.lab.live.design import Design, load_design
from ml.lab.live.run import experiment_rows

PAPER = {
    "homepage": {"engagement": 0.58, "discovery": 1.12, "new_releases": 11.39},
    "radio": {"engagement": 0.70, "discovery": 2.13, "new_releases": 0.96},
}
"""The paper's online table (arXiv 2603.28994), difference to the control in %."""

_TEMPLATE = Path(__file__).with_name("report.md.j2")


def is_same_traffic(part: Design, whole: Design) -> bool:
    """Tell whether users, variants and requests of ``part`` are those of ``whole``, in all or some of its worlds."""
    traffics = [{k: v for k, v in design.traffic.items() if k != "worlds"} for design in (part, whole)]
    return traffics[0] == traffics[1] and set(part.worlds) <= set(whole.worlds)


def write_report(settings: Settings, name: str, aa: str, out: Path) -> list[Path]:
    """Write an experiment's report and return its files: Markdown, an HTML page beside it, and plots in ``<stem>/``.

    Args:
        settings: The home that holds the rows.
        name: The experiment.
        aa: The experiment with one ranker in both variants that stands beside it.
        out: Markdown file to write.

    Raises:
        NotRun: One of them was not run to its end here.
        ValueError: ``aa`` compares two rankers, or another traffic than ``name``.
    """
    design, null = load_design(name), load_design(aa)
    if not null.is_aa or not is_same_traffic(null, design):
        raise ValueError(f"experiment {aa} is no A/A run of {name}: one ranker, the same traffic, worlds of its worlds")
    rows, null_rows = experiment_rows(settings, design), experiment_rows(settings, null)
    table, nothing = effects(rows, design.baseline), effects(null_rows, null.baseline)
    by_day = effects_by_day(rows, design.baseline)
    treated = list(design.variants)[1]
    plots = {
        "effects": effects_plot({name: table, "A/A": nothing}, f"What serving the {treated} changes"),
        **{f"{surface}_days": days_plot(by_day, surface, treated) for surface in design.surfaces},
    }
    facts: dict[str, object] = {
        "design": design,
        "aa": null,
        "treated": treated,
        "table": table,
        "nothing": nothing,
        "at_a_glance": {(e.surface, e.metric, e.estimate): e for e in table},
        "quiet": all(_silent(e) for e in nothing),
        "unquiet": [e for e in nothing if not _silent(e)],
        "paper": PAPER,
        "metrics": METRICS,
        "labels": LABELS,
        "estimates": ESTIMATES,
        "requests": _requests(table),
    }
    return write_pages(_TEMPLATE, facts, plots, out, f"Crossfade: experiment {name}")


def _silent(effect: Effect) -> bool:
    """Tell whether an effect's interval holds 0."""
    return effect.lift.lo <= 0 <= effect.lift.hi


def _requests(table: Sequence[Effect]) -> dict[str, tuple[int, int, int]]:
    """Return {surface: requests of the baseline, of the other variant, both over worlds, and users} of the split."""
    return {e.surface: (*e.requests, e.users) for e in table if e.estimate == "split"}
