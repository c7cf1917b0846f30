"""``crossfade operating-curve``: how often the gate promotes a candidate, by how much worse it truly is."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.shared import TablesAsJson
from deploy.cli.terminal import note, say, show_table

QUICK = 1000


def operating_curve(
    quick: Annotated[
        bool, typer.Option("--quick", help="Only at a loss of nothing and of one whole margin, at the demo's sizes.")
    ] = False,
    candidates: Annotated[int, typer.Option(help="Simulated candidates of each point.", min=100)] = QUICK,
    out: Annotated[
        Path | None, typer.Option(help="Markdown file; a page in HTML and the plot are written beside it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 1,
    as_json: TablesAsJson = False,
) -> None:
    """Simulate candidates that are truly worse, let the gate's own rule look at them, and say how many it promotes.

    The last line is the greatest chance among the sizes at a true loss of one whole margin, all looks counted.
    """
    from ml.evaluation.operating_curve import LOSSES, SIZES, curve_of, write_curves

    sizes = [size for size in SIZES if size.source == SIZES[0].source] if quick else list(SIZES)
    curves = []
    for size in sizes:
        curves.append(curve_of(size, (0.0, 1.0) if quick else LOSSES, candidates=candidates, seed=seed))
        note(f"  {size.source} {size.surface} {size.task}")
    rows = [
        {
            "source": curve.size.source,
            "surface": curve.size.surface,
            "task": curve.size.task,
            **{f"{point.loss:g} margins": f"{point.promoted:.3f}" for point in curve.points},
            "days, of the healthy": f"{curve.points[0].days:.1f}",
        }
        for curve in curves
    ]
    show_table(f"chance to be promoted within e_max by true loss, {candidates} candidates each", rows)
    if out is not None:
        note("written: " + ", ".join(map(str, write_curves(curves, out))))
    say(f"at one margin {max(curve.at(1.0).promoted for curve in curves):.3f}")
