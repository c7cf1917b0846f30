"""``crossfade demo``: the main job, run to its end."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.terminal import result_console, say
from ml.foundation.settings import Settings


def demo(
    source: Annotated[str, typer.Option(help="simulator or kuairand.")] = "simulator",
    kuairand_dir: Annotated[Path | None, typer.Option(help="Unpacked KuaiRand-Pure folder.")] = None,
    preset: Annotated[str, typer.Option(help="Size of the simulated world: tiny, demo or paper.")] = "demo",
    seed: Annotated[int, typer.Option(help="Seed of world and students.")] = 1,
) -> None:
    """Run the main job to its end: raw events, features, soft labels, students, gate, release, an answer."""
    if source not in ("simulator", "kuairand"):
        raise ValueError(f"unknown source {source!r}; choose simulator or kuairand")
    from deploy.cli.demo_run import run_demo
    from ml.evaluation.report import print_report

    report = run_demo(source, kuairand_dir=kuairand_dir, preset=preset, seed=seed)
    print_report(report, None if sys.stdout.isatty() else result_console())
    settings = Settings()
    say(f"\nreport   {settings.reports_dir / 'demo.json'}")
    for name, surface in report["surfaces"].items():
        if surface["release"]:
            say(f"release  {name}: {surface['release']['path']}")
    say("look     make ui, then http://127.0.0.1:3000 (the graph, the plots, the checks)")
    say("serve    .venv/bin/crossfade serve, then POST /rank")
