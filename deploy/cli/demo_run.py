"""The main job, end to end: raw event files to an answer from the server, through one asset graph."""

import json
import os
import resource
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

from deploy.cli.demo_graph import Seconds, added, run_graph
from deploy.cli.terminal import console, reporter
from deploy.home import prepare, rebuild, require_rebuildable
from ml.evaluation.report import Report, SurfaceReport
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings, home_from_environment, write_settings_file
from ml.lab.simulator.presets import load_preset
from ml.lab.sources import write_raw_files
from ml.landing.ledger import totals
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.store import ReleaseStore
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface, teacher_end
from ml.teacher.contract import teacher_contract


def demo_settings(source: str, kuairand_dir: Path | None, preset: str, seed: int) -> dict[str, object]:
    """Return the settings that a demo keeps in its home.

    Args:
        source: ``simulator`` or ``kuairand``.
        kuairand_dir: Unpacked KuaiRand-Pure folder, for ``kuairand``.
        preset: Size of the simulated world, for ``simulator``.
        seed: Seed of world and students.
    """
    if source == "kuairand":
        from ml.lab.kuairand import log_days

        if kuairand_dir is None:
            raise ValueError("SOURCE=kuairand needs KUAIRAND_DIR=path/to/KuaiRand-Pure, the unpacked archive")
        first, last = log_days(kuairand_dir)
        extra: dict[str, object] = {"kuairand_dir": str(kuairand_dir.absolute())}
    else:
        first = date(2026, 1, 1)
        last = first + timedelta(days=load_preset(preset).days - 1)
        extra = {"simulator_preset": preset, "simulator_seed": seed}
    return {"source": source, "first_day": first, "last_day": last, "demo": True, "seed": seed, **extra}


def run_demo(source: str, *, kuairand_dir: Path | None = None, preset: str = "demo", seed: int = 1) -> Report:
    """Run the demo in ``CROSSFADE_HOME`` and write ``reports/demo.json``.

    Returns:
        The report.

    Raises:
        DemoFailed: A step failed; a refused promotion is no failure, it is in the report.
    """
    began = time.perf_counter()
    wanted = demo_settings(source, kuairand_dir, preset, seed)
    home = home_from_environment()
    settings = Settings(home=home)
    if (home / "crossfade.toml").exists():
        present = settings.model_dump()
        if any(str(present[key]) != str(value) for key, value in wanted.items()):
            require_rebuildable(settings)
            console.print(f"[dim]{home} holds a demo of other data; it is rebuilt[/dim]")
            rebuild(settings)
    write_settings_file(home, wanted)
    settings = Settings(home=home)
    settings = prepare(settings, {"teacher_trained_through": teacher_end(settings, load_surfaces(settings))})
    seconds = Seconds()
    with _timed(seconds, "prepare"):
        write_raw_files(settings, progress=reporter())

    surfaces = load_surfaces(settings)

    seconds = added(seconds, run_graph(settings))
    for surface in surfaces.values():
        _serve_popularity(settings, surface)

    with _timed(seconds, "serve"):
        from deploy.serving.run import example_answer

        answers = {name: example_answer(settings, name) for name in _released(settings, surfaces)}
    seconds["total"] = time.perf_counter() - began
    report = build_report(settings, seconds, answers)
    path = settings.reports_dir / "demo.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(report, indent=2), encoding="utf-8")
    scratch.replace(path)
    return report


def build_report(
    settings: Settings, seconds: Mapping[str, float], answers: Mapping[str, Mapping[str, object]]
) -> Report:
    """Return the content of demo.json from what the graph recorded."""
    from ml.lab.demo_teacher import read_card
    from ml.lab.study.spread import expected_spreads
    from ml.stages.summary import surface_summary

    assert settings.last_day is not None
    card = read_card(teacher_contract(settings))
    parameters = int(card["parameters"]) if card else None
    spreads = expected_spreads(settings.simulator_preset if settings.source == "simulator" else settings.source)
    with Lake(settings) as lake:
        landing = totals(lake)
        surfaces: dict[str, SurfaceReport] = {
            name: {
                **surface_summary(lake, settings, surface, settings.last_day, parameters),
                "answer": answers.get(name),
                "spread": {task: found.deviation for task, found in spreads.get(name, {}).items()},
            }
            for name, surface in load_surfaces(settings).items()
        }
    return {
        "source": settings.source,
        "seconds": {name: round(value, 2) for name, value in sorted(seconds.items())},
        "peak_rss_mb": round(peak_rss_mb()),
        "landing": landing,
        "surfaces": surfaces,
    }


def peak_rss_mb() -> float:
    """Return the peak resident memory of this process plus that of its largest child, in MiB."""
    kib = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return kib / 1024


def _serve_popularity(settings: Settings, surface: Surface) -> None:
    """Let popularity serve where the surface says so, nothing does, and the student was refused."""
    from deploy.popularity import release_popularity

    assert settings.last_day is not None
    try:
        released = release_popularity(settings, surface, settings.last_day, by="crossfade demo")
    except PromotionRefused as refused:
        if refused.code is not Refusal.NOT_FIRST:
            raise
    else:
        console.print(f"{surface.name} ranks by popularity, {released.id}: its student was refused", soft_wrap=True)


def _released(settings: Settings, surfaces: Iterable[str]) -> list[str]:
    store = ReleaseStore.of(settings)
    return [name for name in surfaces if store.champion(name) is not None]


@contextmanager
def _timed(seconds: Seconds, stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - began


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment of Dagster's processes for this home."""
    return {**os.environ, "CROSSFADE_HOME": str(settings.home), "DAGSTER_HOME": str(settings.dagster_home)}
