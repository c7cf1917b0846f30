"""Guard `served`: what the server's log says of how a candidate would be served."""

from datetime import timedelta

import pytest

from checks.guards import served
from ml.evaluation.outcome import Outcome
from ml.evaluation.served import Figure
from ml.evaluation.served import as_table as table_of
from ml.evaluation.served_kinds import AS_LOGGED, AS_SERVED, CALIBRATION, EXPOSED, OLDER, REPRODUCED, SHIFT, UNEQUAL
from ml.foundation.lake import Lake
from ml.stages.served import served_skew_table
from tests.checks.spoilt import Bench, blocked

HEALTHY = (
    Figure(EXPOSED, "matched", "", 900, 900),
    Figure(EXPOSED, "no logged request", "", 100, 100),
    Figure(UNEQUAL, "item_ctr", "daily", 0.0, 900),
    Figure(UNEQUAL, "user_id", "request", 0.002, 900),
    Figure(UNEQUAL, "content", "daily", float("nan"), 0),
    Figure(OLDER, "", "", 0.1, 900),
    Figure(REPRODUCED, "", "", 0.0, 900),
    Figure(CALIBRATION, "ctr", AS_LOGGED, 1.1, 900, 0.9, 1.3, 300, 250.0),
    Figure(CALIBRATION, "ctr", AS_SERVED, 9.0, 900, 8.0, 10.0, 300, 250.0),
    Figure(SHIFT, "score", "2026-01-01-abc", 0.05, 900),
)


def with_figures(bench: Bench, *changed: Figure, days_ago: int = 1) -> Bench:
    """Record what was served a day before the candidate, with some figures in place of the healthy ones."""
    found = {figure[:3]: figure for figure in (*HEALTHY, *changed)}
    day = bench.manifest.partition - timedelta(days=days_ago)
    with Lake(bench.settings) as lake:
        table = served_skew_table(bench.surface.name)
        if lake.table_exists(table):
            lake.connection.execute(f"delete from lake.{table}")
        lake.replace_days(table, table_of(day, list(found.values())), [day])
    return bench


@pytest.fixture(autouse=True)
def _cleared(bench: Bench):
    yield
    with Lake(bench.settings) as lake:
        lake.connection.execute(f"drop table if exists lake.{served_skew_table(bench.surface.name)}")


def test_a_surface_whose_answers_nobody_logged_is_not_evaluated(bench: Bench) -> None:
    result = bench.ask(served.GUARD)
    assert (result.outcome, result.checks) == (Outcome.NOT_EVALUATED, ()) and "logged" in result.reason
    old = with_figures(bench, days_ago=20)
    assert old.ask(served.GUARD).outcome is Outcome.NOT_EVALUATED


def test_what_serves_as_it_was_measured_passes(bench: Bench) -> None:
    result = with_figures(bench).ask(served.GUARD)
    assert result.outcome is Outcome.PASS, result.reason
    assert {check.name for check in result.checks} == {
        "matched_exposures",
        "unequal_item_ctr",
        "unequal_user_id",
        "older_features",
        "not_reproduced",
        "predicted_over_observed_ctr_from",
        "predicted_over_observed_ctr_to",
        "psi_score_2026-01-01-abc",
    }


@pytest.mark.parametrize(
    ("figure", "name"),
    [
        (Figure(UNEQUAL, "item_ctr", "daily", 0.02, 900), "unequal_item_ctr"),
        (Figure(OLDER, "", "", 0.6, 900), "older_features"),
        (Figure(REPRODUCED, "", "", 0.01, 900), "not_reproduced"),
    ],
)
def test_what_the_candidate_would_be_served_with_too_blocks(bench: Bench, figure: Figure, name: str) -> None:
    result = with_figures(bench, figure).ask(served.GUARD)
    assert (result.outcome, blocked(result)) == (Outcome.FAIL, {name})
    few = Figure(EXPOSED, "matched", "", 20, 20)
    assert with_figures(bench, figure, few).ask(served.GUARD).outcome is Outcome.WARN


@pytest.mark.parametrize(
    ("figure", "name"),
    [
        (Figure(CALIBRATION, "ctr", AS_LOGGED, 2.5, 900, 2.2, 2.8, 300, 250.0), "predicted_over_observed_ctr_to"),
        (Figure(CALIBRATION, "ctr", AS_LOGGED, 0.3, 900, 0.2, 0.4, 300, 250.0), "predicted_over_observed_ctr_from"),
        (Figure(SHIFT, "score", "2026-01-01-abc", 0.5, 900), "psi_score_2026-01-01-abc"),
    ],
)
def test_the_champions_own_figures_warn_its_successor_and_fail_their_day(
    bench: Bench, figure: Figure, name: str
) -> None:
    result = with_figures(bench, figure).ask(served.GUARD)
    assert result.outcome is Outcome.WARN
    assert [check.name for check in result.checks if check.outcome is Outcome.WARN] == [name]
    with Lake(bench.settings) as lake:
        day = bench.manifest.partition - timedelta(days=1)
        failed = [c.name for c in served.judge_days(lake, bench.surface, [day]) if c.outcome is Outcome.FAIL]
    assert failed == [name]


def test_a_ratio_whose_interval_reaches_its_bounds_or_is_not_known_warns(bench: Bench) -> None:
    reaches = Figure(CALIBRATION, "ctr", AS_LOGGED, 2.5, 900, 1.5, 3.5, 300, 250.0)
    assert with_figures(bench, reaches).ask(served.GUARD).outcome is Outcome.WARN
    unknown = Figure(CALIBRATION, "ctr", AS_LOGGED, float("nan"), 900)
    result = with_figures(bench, unknown).ask(served.GUARD)
    assert result.outcome is Outcome.WARN and "predicted_over_observed_ctr_known" in result.reason
