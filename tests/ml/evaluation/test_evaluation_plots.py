"""Plots are PNG images of 900 pixels; the printed report shows the figures."""

import base64
import io
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
from rich.console import Console

from ml.evaluation import plots
from ml.evaluation.report import Report, markdown_summary, print_report, surface_report


def size(png: bytes) -> tuple[int, int]:
    """Read width and height from the PNG header."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


@pytest.mark.slow
def test_every_plot_of_an_evaluation_is_a_png_900_pixels_wide(world: Any) -> None:
    found = plots.figures(world.evaluation)
    names = {f"{kind}_{task}" for kind in ("calibration", "scores") for task in world.evaluation.kinds}
    assert set(found) == names | {"deltas", "slices"}
    assert {size(png)[0] for png in found.values()} == {900}


@pytest.mark.slow
def test_a_plot_is_embedded_whole(world: Any) -> None:
    png = plots.delta_plot(world.evaluation)
    text = plots.markdown_image(png, "deltas")
    assert text.startswith("![deltas](data:image/png;base64,")
    assert base64.b64decode(text.split(",", 1)[1].rstrip(")")) == png


@pytest.mark.slow
def test_without_a_student_the_control_alone_is_plotted(world: Any) -> None:
    alone = replace(
        world.evaluation,
        kinds={"ctr": "binary"},
        results=tuple(r for r in world.evaluation.results if "student" not in (r.model, r.reference)),
        calibration=tuple(c for c in world.evaluation.calibration if c.model != "student"),
        histograms=tuple(h for h in world.evaluation.histograms if h.model != "student"),
    )
    assert set(plots.figures(alone)) == {f"{kind}_{task}" for kind in ("calibration", "scores") for task in alone.kinds}


@pytest.mark.parametrize("decision", ["pass", "fail"])
def test_the_printed_report_shows_models_intervals_counts_and_verdict(world: Any, decision: str) -> None:
    surface = surface_report(
        world.evaluation,
        world.surface,
        rows={"train": 1234, "test": world.evaluation.rows},
        defaulted_input_share=None,
        parameters={"teacher": None, "student": 5000},
        verdict={"decision": decision, "path": "v.json"},
        release={"id": "r1", "path": "releases/r1"} if decision == "pass" else None,
    )
    report: Report = {
        "source": "simulator",
        "seconds": {"total": 12.0},
        "peak_rss_mb": 900,
        "landing": {"rows_in": 1000, "rows_loaded": 998, "rows_quarantined": 2},
        "surfaces": {"homepage": surface},
    }
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=100))
    text = stream.getvalue()
    ctr = cast("Mapping[str, Any]", surface["tasks"]["ctr"])
    for model in ("control", "teacher", "student"):
        assert f"{100 * ctr[model]:.2f}" in text
    assert f"[{100 * ctr['delta_lo']:+.2f}, {100 * ctr['delta_hi']:+.2f}]" in text
    assert f"{ctr['n']:,}" in text and f"{ctr['effective_users']:.0f}" in text and "1,234 training rows" in text
    assert decision in text and ("r1" if decision == "pass" else "none") in text
    assert "…" not in text


def test_a_slice_that_loses_is_said_in_report_and_summary(world: Any) -> None:
    key = ("student", "control", "few_training_rows", "ctr", "auc", "serving")
    names = ("model", "reference", "slice", "task", "metric", "inputs")
    results = tuple(
        replace(r, value=-0.01, lo=-0.02, hi=-0.001) if tuple(getattr(r, n) for n in names) == key else r
        for r in world.evaluation.results
    )
    lost = replace(world.evaluation, results=results)
    said = "The student loses to its control in few training rows: ctr -1.00 [-2.00, -0.10]"
    assert said in markdown_summary(lost, world.surface)
    assert "loses to its control in few" not in markdown_summary(world.evaluation, world.surface)
    options = {"rows": {"train": 1, "test": 1}, "defaulted_input_share": None, "parameters": {}}
    report = surface_report(lost, world.surface, **options, verdict=None, release=None)
    stream = io.StringIO()
    print_report({"surfaces": {"homepage": report}}, Console(file=stream, width=120))
    assert said in stream.getvalue()


def test_the_summary_has_a_row_per_task_and_slice_with_its_interval(world: Any) -> None:
    lines = markdown_summary(world.evaluation, world.surface).splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines[4:] if line.startswith("|")]
    assert len(rows) == len(world.surface.tasks) * len(world.evaluation.slices)
    assert {len(row) for row in rows} == {9}
    d = world.evaluation.difference("student", "control", "ctr")
    assert rows[0][:2] == ["all", "ctr AUC"]
    assert rows[0][5] == f"{100 * d.estimate:+.2f} [{100 * d.lo:+.2f}, {100 * d.hi:+.2f}]"
