"""What a release depends on, and whether it can be trained again."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.shared import Release, TablesAsJson, home_settings
from deploy.cli.terminal import note, reporter, say, show_table
from ml.operations.trace import as_page, find_release, trace
from ml.releases.store import ReleaseStore

_SHORT = 12
"""Longest table that a tree on the terminal shows; pages show all."""


def lineage(
    release: Release,
    out: Annotated[
        Path | None, typer.Option(help="HTML page to write; default $CROSSFADE_HOME/reports/lineage_<release>.html.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a tree.")] = False,
) -> None:
    """Show everything that a release depends on, down to lake snapshot, landed files and teacher."""
    settings = home_settings()
    found = find_release(ReleaseStore.of(settings), release)
    root = trace(settings, found)
    if as_json:
        typer.echo(json.dumps(asdict(root), indent=1))
    else:
        for depth, node in root.walk():
            facts = ", ".join(f"{name} {value}" for name, value in node.facts.items())
            typer.echo(f"{'  ' * depth}{node.title}" + (f": {facts}" if facts else ""))
            for row in node.rows if len(node.rows) <= _SHORT else ():
                typer.echo(f"{'  ' * depth}    " + ", ".join(f"{name} {value}" for name, value in row.items()))
    page = out or settings.reports_dir / f"lineage_{found.id}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(as_page(root), encoding="utf-8")
    note(f"read {page}")


def reproduce_release(release: Release, as_json: TablesAsJson = False) -> None:
    """Train a release again from its recorded snapshot; fails where not even the figures match."""
    from ml.operations.reproduce import TOLERANCE, reproduce

    settings = home_settings()
    found = reproduce(settings, find_release(ReleaseStore.of(settings), release), reporter())
    show_table(
        f"{found.release}, released and trained again",
        [
            {
                "task": f"{figure.task} {figure.metric.upper()}",
                "released": f"{100 * figure.released:.3f}",
                "again": f"{100 * figure.again:.3f}",
                "largest difference of a score": figure.largest_difference,
            }
            for figure in found.figures
        ],
    )
    for name, (then, here) in found.differing.items():
        say(f"{name}: {then} then, {here} here")
    same = {True: "the same bytes", False: "other bytes"}
    say(f"weights: {same[found.weights]}; model.onnx: {same[found.onnx]}")
    if found.match == "no":
        raise ValueError(f"{found.release} was not reproduced: a figure differs by more than {TOLERANCE}")
    say(f"reproduced: the {found.match} match", style="bold")
