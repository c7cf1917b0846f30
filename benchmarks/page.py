"""The page of the benchmarks: newest figures, cost against size, ratios over commits; a function of the history."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import linear_regression
from typing import Any

from benchmarks.record import HISTORY, number, read, table, told
from benchmarks.scale import scale_page
from ml.foundation.settings import PROJECT_ROOT

DOCS = PROJECT_ROOT / "docs" / "results"
SIZES = 5
"""A plot of cost against size needs so many."""

History = Mapping[str, Sequence[Mapping[str, Any]]]
Curves = dict[str, list[tuple[float, float]]]

HEAD = """# Benchmarks

`make bench` runs the stages, `python -m benchmarks page` writes this page from `benchmarks/history/`, where every run
left one line. Each figure stands beside a reference of the same run; both ran in turn. A ratio is the median over runs
of value by reference's value, with the least and the greatest. Where the load average is above the number of cores, the
machine was busy with other work: read ratios and slopes, not seconds. What the slopes mean for large apps:
[scale.md](scale.md).
"""


def write(history: Path = HISTORY, docs: Path = DOCS) -> list[Path]:
    """Write both pages and the plots; return their paths."""
    found = read(history)
    pages = {docs / "benchmarks.md": page(found), docs / "scale.md": scale_page(found)}
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    folder = docs / "benchmarks"
    folder.mkdir(exist_ok=True)
    drawn = []
    for name, (curves, of, unit) in scaled(found).items():
        drawn.append(folder / name)
        drawn[-1].write_bytes(plot(curves, of, unit))
    for old in set(folder.glob("*.png")) - set(drawn):
        old.unlink()
    return [*pages, *drawn]


def page(found: History) -> str:
    """Return the Markdown of a history."""
    lines = [HEAD]
    plots = scaled(found)
    for stage, records in found.items():
        newest = records[-1]
        lines += [f"## {stage}", "", f"`{newest['command']}`, {newest['date'][:10]}, commit {newest['commit']}."]
        lines += [f"{told(newest['machine'])}.", "", *table(newest["rows"]), ""]
        for name, (curves, of, unit) in plots.items():
            if name.startswith(f"{stage}-"):
                lines += [f"![{unit} against {of}](benchmarks/{name})", ""]
                told_slopes = (f"{curve} {slope(points):.2f}" for curve, points in curves.items())
                lines += [f"Slopes of {unit} against {of}, log-log: {'; '.join(told_slopes)}.", ""]
        if len(records) > 1:
            lines += [*over_commits(records), ""]
    return "\n".join(lines).rstrip() + "\n"


def scaled(found: History) -> dict[str, tuple[Curves, str, str]]:
    """Return {file name: (curves, what the size counts, unit)} of the newest record of each stage."""
    plots = {}
    for stage, records in found.items():
        grouped: dict[tuple[str, str], Curves] = defaultdict(lambda: defaultdict(list))
        for row in records[-1]["rows"]:
            grouped[row["of"], row["unit"]][row["name"]].append((row["size"], row["value"]))
        for (of, unit), curves in grouped.items():
            enough = {name: sorted(points) for name, points in curves.items() if len(dict(points)) >= SIZES}
            if enough:
                plots["-".join((stage, *of.split(), *unit.replace("/", "per").replace(",", "").split())) + ".png"] = (
                    enough,
                    of,
                    unit,
                )
    return plots


def over_commits(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table of the ratio of each row at its largest size, a column per run."""
    runs = records[-5:]
    lines = ["| ratio at the largest size | " + " | ".join(record["commit"] for record in runs) + " |"]
    lines.append("|---|" + "---|" * len(runs))
    largest: dict[tuple[str, str, str], float] = {}
    for row in runs[-1]["rows"]:
        key = row["name"], row["of"], row["unit"]
        if row["name"] != row["reference"]:
            largest[key] = max(row["size"], largest.get(key, 0))
    for (name, of, unit), size in largest.items():
        wanted = {"name": name, "of": of, "unit": unit, "size": size}
        ratios = [
            next((f"{row['ratio']:.3g}" for row in record["rows"] if wanted.items() <= row.items()), "")
            for record in runs
        ]
        lines.append(f"| {name} ({unit}, {number(size)} {of}) | " + " | ".join(ratios) + " |")
    return lines


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the exponent b of the least squares fit value = a * size^b."""
    return linear_regression(*zip(*((math.log(size), math.log(value)) for size, value in points), strict=True)).slope


def plot(curves: Curves, of: str, unit: str) -> bytes:
    """Draw cost against size on logarithmic axes, each curve with its slope, in the style of all plots."""
    import io

    from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, LogLocator

    from ml.evaluation.plots import SERIES, canvas

    figure, axes = canvas(5.2)
    for (name, points), (colour, mark) in zip(curves.items(), cycle(SERIES), strict=False):
        look = {"color": colour, "marker": mark, "markersize": 6.5, "linewidth": 1.8}
        axes.loglog(*zip(*points, strict=True), **look, label=f"{name} (slope {slope(points):.2f})")
    axes.set(xlabel=of, ylabel=unit)
    short = EngFormatter(sep="")
    sizes = sorted({size for points in curves.values() for size, _ in points})
    axes.set_xticks(sizes, [short(float(f"{size:.3g}")) for size in sizes])
    least, most = axes.get_ylim()
    subs = (1,) if most > 100 * least else (1, 2, 5) if most > 5 * least else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    places = LogLocator(subs=subs, numticks=99).tick_values(least, most)
    axes.yaxis.set_major_locator(FixedLocator([place for place in places if least <= place <= most]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1000 else short(value)))
    axes.minorticks_off()
    figure.legend(loc="outside lower center", ncols=2, fontsize=10, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    return out.getvalue()
