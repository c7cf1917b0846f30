"""A small sample of the error rates of experiments with daily looks."""

from pathlib import Path

import pytest

from ml.experiments.rates import METHODS, App, Rate, rates, write_rates

APP = App(users=1200, days=8, history_days=10)


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, float], Rate]:
    return {(rate.method, rate.lift): rate for rate in rates((0.0, 0.4), runs=40, app=APP)}


@pytest.mark.slow
def test_daily_looks_seldom_err_and_find_a_large_difference(found: dict[tuple[str, float], Rate]) -> None:
    for method in ("daily", "history", "interleaved"):
        assert found[(method, 0.0)].share <= 0.05, method
        assert found[(method, 0.0)].covered >= 38 and found[(method, 0.4)].covered >= 38, method
        assert found[(method, 0.4)].wrong == 0, method
    assert found[("naive", 0.0)].share > 0.1, "who looks daily with an interval for one look errs often"


def test_history_finds_more_than_a_plain_split_and_one_list_most(found: dict[tuple[str, float], Rate]) -> None:
    plain, history, together = (found[(method, 0.4)] for method in ("daily", "history", "interleaved"))
    assert plain.share < history.share <= together.share
    assert together.days is not None and (history.days is None or together.days < history.days)
    assert list(together.decided) == sorted(together.decided) and together.decided[-1] == round(40 * together.share)


def test_the_page_tells_what_was_found_and_by_which_command(
    found: dict[tuple[str, float], Rate], tmp_path: Path
) -> None:
    page, *_ = write_rates(list(found.values()), APP, "crossfade experiment rates --quick", tmp_path / "rates.md")
    text = page.read_text(encoding="utf-8")
    assert (
        "    crossfade experiment rates --quick\n" in text
        and "1,200 users" in text
        and "\n## A difference of 40.0 %" in text
    )
    for method, name in METHODS.items():
        assert f"| {name} | {100 * found[(method, 0.0)].share:.1f} |" in text
