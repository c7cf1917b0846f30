"""``crossfade demo``: the main job, run to its end."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.terminal import result_console, say, show_facts
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
    from deploy.cli.demo_end import last_words
    from deploy.cli.demo_run import run_demo
    from ml.evaluation.report import print_report

    report = run_demo(source, kuairand_dir=kuairand_dir, preset=preset, seed=seed)
    print_report(report, None if sys.stdout.isatty() else result_console())
    say("")
    show_facts(last_words(report, Settings().reports_dir))
