"""``crossfade off-policy``: how often the intervals of off-policy estimates hold the truth."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.shared import TablesAsJson
from deploy.cli.terminal import note, say, show_table

_SIZES = (1_500, 9_000)


def off_policy(
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the logs, of a tiny app.")] = False,
    logs: Annotated[int, typer.Option(help="Simulated logs of each size.", min=20)] = 200,
    out: Annotated[
        Path | None, typer.Option(help="Markdown file; a page in HTML and the plot are written beside it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 1,
    as_json: TablesAsJson = False,
) -> None:
    """Simulate logs whose propensities are known, and hold estimates of what rankers would earn against the truth.

    The last line is the least share of 95 % intervals, SNIPS or doubly robust, that held it.
    """
    from ml.lab.off_policy import METHODS, coverage, named, write_coverage

    preset, sizes = ("tiny", _SIZES[:1]) if quick else ("demo", _SIZES)
    count = max(20, logs // 10) if quick else logs
    found = coverage(preset, sizes, count, seed, note)
    rows = [
        {
            "rows": f"{row.rows:,.0f}",
            "first choice of a ranker that": named(row),
            "method": METHODS[row.method],
            "truth": f"{100 * row.truth:.2f}",
            "mean error": f"{100 * row.bias:+.2f}",
            "half width": f"{100 * row.half:.2f}",
            "held, %": f"{100 * row.share:.1f}",
        }
        for row in found
    ]
    show_table(f"clicks per 100 places, {count} logs of each size", rows)
    if out is not None:
        command = f"crossfade off-policy{' --quick' if quick else ''} --logs {logs} --seed {seed} --out {out}"
        note("written: " + ", ".join(map(str, write_coverage(found, preset, command, out))))
    say(f"intervals held {min(row.share for row in found if row.method in ('snips', 'dr')):.3f}")
