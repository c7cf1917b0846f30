"""The operating curve: what the gate's own rule makes of simulated candidates, over all looks."""

import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from deploy.cli.main import app
from ml.evaluation import operating_curve
from ml.evaluation.operating_curve import SIZES, Size, operating_point
from ml.surfaces.window import ONE_LOOK, Looks
from tests.support.pages import as_shown

SMALL = Size("simulator", "radio", "engagement", 120, 600, 3.0, 0.5, 0.18, 0.005)
"""An app so small that three days seldom decide."""


def _promoted(loss: float, looks: Looks, candidates: int = 400) -> operating_curve.Point:
    common = {"margin": 0.01, "comparisons": 1, "candidates": candidates, "seed": 3, "replicates": 200}
    return operating_point(SMALL, loss, looks=looks, **common)


@pytest.mark.slow
def test_a_candidate_worse_by_one_margin_is_promoted_one_time_in_twenty_at_most_over_all_looks() -> None:
    worse, healthy = _promoted(1.0, Looks(3, 14)), _promoted(0.0, Looks(3, 14))
    assert worse.promoted <= 0.05
    assert healthy.promoted >= 0.95 > healthy.at_once, "its further days decide"
    assert healthy.failed <= 0.025
    assert 3 < healthy.days < 14


def test_looks_that_are_not_counted_would_promote_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    real = operating_curve.judge_interval
    monkeypatch.setattr(
        operating_curve, "judge_interval", lambda *figures, looks, **more: real(*figures, looks=ONE_LOOK, **more)
    )
    assert _promoted(1.0, Looks(3, 14)).promoted > 0.05


@pytest.mark.slow
def test_the_command_ends_with_the_chance_at_one_margin(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(operating_curve, "SIZES", (replace(SIZES[3], users=100), replace(SIZES[7], users=100)))
    said = CliRunner().invoke(app, [*as_shown("crossfade operating-curve --quick"), "--candidates", "100"])
    assert said.exit_code == 0, said.output
    found = re.fullmatch(r"at one margin (0\.\d{3})", said.stdout.rstrip("\n").splitlines()[-1])
    assert found, said.stdout
    assert "kuairand" not in said.stdout, "the quick one is of the demo's sizes"
    monkeypatch.setattr(operating_curve, "LOSSES", (0.0, 1.0))
    out = tmp_path / "curves.md"
    said = CliRunner().invoke(app, ["operating-curve", "--candidates", "100", "--out", str(out)])
    assert said.exit_code == 0, said.output
    assert (tmp_path / "curves" / "curves.png").stat().st_size > 10_000
    assert re.search(r"\| kuairand \| radio \| engagement \| 0.005 \| 0\.\d{3} \| 0\.\d{3} \|", out.read_text())
