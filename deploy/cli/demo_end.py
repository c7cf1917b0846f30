"""What a demo says at its end: what was built, what it gained, what the gate decided, where to look, what is next."""

from collections.abc import Mapping
from pathlib import Path

from ml.evaluation.report import Report, SurfaceReport, gain_text

_SOURCES = {
    "simulator": "a simulated video platform and a music app that learns from it",
    "kuairand": "the logs of KuaiRand, of which one tab teaches the others",
}


def last_words(report: Report, reports_dir: Path) -> dict[str, str]:
    """Return five lines by their heading.

    Args:
        report: Of the run, whose verdicts say why.
        reports_dir: Where it was written.
    """
    surfaces, landing = report["surfaces"], report.get("landing", {})
    source = report.get("source", "")
    rows = f"{landing['rows_loaded']:,} rows of events, " if landing else ""
    built = f"{_SOURCES.get(source, source)}: {rows}a student and its control for {' and '.join(surfaces)}"
    serving = next((name for name, surface in surfaces.items() if surface["release"]), None)
    first = next(iter(surfaces))
    shown = f"`crossfade open {serving}`" if serving else f"`crossfade release verdict {first}`"
    served = "`crossfade serve` answers /rank" if serving else "nothing serves yet"
    stand_ins = [name for name, surface in surfaces.items() if _kind(surface) == "popularity"]
    served += f", {' and '.join(stand_ins)} by popularity until a student passes" if stand_ins else ""
    return {
        "built": built,
        "gained": "; ".join(f"{name} {gain_text(surface)}" for name, surface in surfaces.items())
        + " (student - control, AUC x 100, 95 % interval; *: too few rows)",
        "gate": "; ".join(f"{name} {_decided(surface['verdict'])}" for name, surface in surfaces.items()),
        "look": f"{shown}, `crossfade ui` (the graph, plots, checks), {reports_dir / 'demo.json'}; {served}",
        "next": "`crossfade new app DIR` starts an app of your own data: docs/tutorial/your_app.md, half an hour",
    }


def _kind(surface: SurfaceReport) -> str | None:
    return surface["release"].get("kind") if surface["release"] else None


def _decided(verdict: Mapping[str, str] | None) -> str:
    if verdict is None:
        return "was not judged"
    decided = {"pass": "passed", "fail": "refused", "inconclusive": "undecided, nothing is promoted"}
    lacking = f"; {verdict['lacking']}" if verdict.get("lacking") else ""
    return f"{decided[verdict['decision']]} ({verdict['because']}{lacking})"
