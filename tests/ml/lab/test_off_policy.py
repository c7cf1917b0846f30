"""A small sample of how often the intervals of off-policy estimates hold the simulator's truth."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli.main import app
from ml.lab.off_policy import METHODS, Coverage, coverage, named, write_coverage
from tests.support.pages import as_shown

LOGS = 40


@pytest.fixture(scope="module")
def found() -> list[Coverage]:
    return coverage("tiny", (1500,), LOGS)


@pytest.mark.slow
def test_most_intervals_hold_the_truth_and_errors_are_small_beside_them(found: list[Coverage]) -> None:
    for row in found:
        if row.method != "naive" and row.ranker != "teacher":  # few clicks where the contrary ranker looks
            assert row.covered >= 0.85 * LOGS, (named(row), row.method)
            assert abs(row.bias) < 3 * row.spread / LOGS**0.5, (named(row), row.method)


@pytest.mark.slow
def test_good_expected_labels_narrow_what_contrary_ones_leave_wide(found: list[Coverage]) -> None:
    own = {(row.ranker, row.reference, row.method): row for row in found}
    good, wrong = own["student", None, "dr"], own["student", None, "dr_wrong"]
    assert good.half < wrong.half and wrong.covered >= 0.85 * LOGS, "wrong expected labels cost width, not truth"
    assert own["student", "shown", "dr"].truth > 0 > own["teacher", None, "dr"].truth - own["student", None, "dr"].truth


@pytest.mark.slow
def test_the_command_ends_with_the_least_share_that_held() -> None:
    done = CliRunner().invoke(app, as_shown("crossfade off-policy --quick"))
    assert done.exit_code == 0, done.exception
    held = re.fullmatch(r"intervals held (\d\.\d{3})", done.stdout.splitlines()[-1])
    assert held and float(held[1]) >= 0.8


def test_the_page_tells_what_was_found_and_by_which_command(found: list[Coverage], tmp_path: Path) -> None:
    page, *_ = write_coverage(found, "tiny", "crossfade off-policy --quick", tmp_path / "coverage.md")
    text = page.read_text(encoding="utf-8")
    assert "    crossfade off-policy --quick\n" in text and "40 logs of each size" in text
    for row in found:
        assert f"| {named(row)} | {METHODS[row.method]} | {100 * row.truth:.2f} |" in text
        assert f" | {100 * row.share:.1f} |\n" in text


def test_clicks_of_first_choices_credit_whoever_agrees_with_the_order_shown_and_propensities_do_not(
    found: list[Coverage],
) -> None:
    own = {(row.ranker, row.reference, row.method): row for row in found}
    naive, snips = own["champion", None, "naive"], own["champion", None, "snips"]
    assert naive.bias > 3 * naive.spread / LOGS**0.5
    assert abs(snips.bias) < naive.bias
