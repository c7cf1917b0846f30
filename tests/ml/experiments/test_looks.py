"""Intervals for looking every day, what is known of users before, the split, and the plan before the start."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import norm
from statsmodels.api import OLS, add_constant

from ml.experiments.lift import (
    EXPECTED_LIFT,
    Lift,
    covariates,
    detectable,
    deviations,
    even_split_error,
    paired_lift,
    split_lift,
)
from ml.experiments.looks import Panel, look_daily
from ml.experiments.plan import false_alarms
from ml.experiments.sample_ratio import sample_ratio
from ml.experiments.user_days import METRICS

START = date(2026, 3, 1)


def app(users: int, days: int, seed: int, lift: float = 0.0) -> tuple[pa.Table, pa.Table]:
    """Users of lasting taste who come on some days, in two variants, and what they did before."""
    rng = np.random.default_rng(seed)
    taste = rng.gamma(2.0, size=users)
    arm = np.where(np.arange(users) % 2 == 0, "control", "student")
    gain = np.where(arm == "student", 1 + lift, 1.0)

    def rows(first: int, last: int, gain: np.ndarray) -> pa.Table:
        parts = []
        for day in range(first, last):
            requests = rng.poisson(0.6, users)
            came = np.flatnonzero(requests)
            value = rng.gamma(requests[came] * 0.5) * taste[came] * gain[came]
            parts.append(
                pa.table(
                    {
                        "arm": arm[came].tolist(),
                        "estimate": ["split"] * len(came),
                        "day": [START + timedelta(days=day)] * len(came),
                        "user_id": came,
                        "requests": requests[came],
                        **dict.fromkeys(METRICS, value),
                    }
                )
            )
        return pa.concat_tables(parts)

    return rows(0, days, gain), rows(-20, 0, np.ones(users))


def test_an_interval_for_every_look_is_the_papers_and_wider_than_one_for_one_look():
    # Waudby-Smith et al., theorem 2.2, in its own terms: t users of unit variance, mixture rho.
    t, rho = 900, 0.05
    theirs = np.sqrt(2 * (t * rho**2 + 1) / (t**2 * rho**2) * np.log(np.sqrt(t * rho**2 + 1) / 0.05))
    assert deviations(1 / np.sqrt(t), rho) / np.sqrt(t) == pytest.approx(theirs)
    lift = Lift(0.03, 0.01, 1e9)
    once, every = lift.at_one_look(), lift.at_every_look()
    assert every[0] < once[0] < lift.relative < once[1] < every[1]
    assert once[1] == pytest.approx(np.expm1(0.03 + norm.ppf(0.975) * 0.01), rel=1e-6)
    few = Lift(0.03, 0.01, 8.0).at_every_look()
    assert few[0] < every[0] and few[1] > every[1]
    assert detectable(0.01) == pytest.approx(np.expm1(0.02802), rel=1e-3)
    assert detectable(0.01) < detectable(0.01, 0.05)


@pytest.mark.slow
def test_looking_daily_errs_seldom_where_an_interval_for_one_look_errs_often():
    rows, history = app(300, 12, seed=1)
    panel = Panel.of(rows, sorted(rows["day"].unique().to_pylist()))
    known, value = panel.before(history)["engagement"], panel.values["engagement"]
    daily = naive = 0
    rng = np.random.default_rng(4)
    for _ in range(150):
        treated = rng.permutation(len(panel.users)) % 2 == 0
        found = []
        for k in range(12):
            asked = panel.asked[:, k]
            found.append(split_lift(treated[asked], value[asked, k], panel.requests[asked, k], known[asked]))
        daily += any(not lift.at_every_look()[0] <= 0 <= lift.at_every_look()[1] for lift in found if lift)
        naive += any(not lift.at_one_look()[0] <= 0 <= lift.at_one_look()[1] for lift in found if lift)
    assert daily == false_alarms(panel, "engagement", known, EXPECTED_LIFT, runs=150, seed=4)
    assert daily <= 7 < 15 <= naive, (daily, naive)


def test_what_was_known_before_narrows_the_interval_and_moves_no_mean():
    plain, adjusted = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        taste, treated = rng.gamma(2.0, size=300), np.arange(300) % 2 == 0
        (earlier, before), (requests, after) = (
            (asked := rng.poisson(12, 300), rng.gamma(asked * 0.5 + 1e-9) * taste) for _ in range(2)
        )
        asked = requests > 0
        value = after * np.where(treated, 1.1, 1.0)
        sides = treated[asked], value[asked], requests[asked]
        plain.append(split_lift(*sides))
        adjusted.append(split_lift(*sides, covariates(before, earlier)[asked]))
    assert all(a and p and a.se < p.se for a, p in zip(adjusted, plain, strict=True))
    logs = [np.array([lift.log for lift in found]) for found in (plain, adjusted)]
    assert logs[1].std() < 0.9 * logs[0].std()
    for found, lifts in zip(logs, (plain, adjusted), strict=True):
        assert abs(found.mean() - np.log(1.1)) < 3 * found.std() / 10
        assert found.std() == pytest.approx(np.mean([lift.se for lift in lifts]), rel=0.2)


def test_the_adjusted_difference_is_the_one_of_a_regression():
    rng = np.random.default_rng(3)
    before = rng.gamma(2.0, size=(400, 1))
    treated, requests = np.arange(400) % 2 == 0, np.ones(400)
    value = 1 + before[:, 0] + 0.3 * treated + rng.normal(size=400)
    lift = split_lift(treated, value, requests, before)
    assert lift is not None
    design = add_constant(np.column_stack([treated, before]).astype(float))
    fitted = OLS(value, design).fit()
    # On the logarithm's scale an arm's influences are divided by its mean: the same to first order in the difference.
    assert lift.log == pytest.approx(fitted.params[1] / value.mean(), rel=0.1)
    assert lift.se == pytest.approx(fitted.bse[1] / value.mean(), rel=0.1)


def test_rows_of_one_user_are_one_user():
    rows, _ = app(200, 8, seed=1)
    again = {k.metric: k for k in look_daily(rows, "control").last()}["engagement"]
    doubled = pa.concat_tables([rows, rows])
    twice = {k.metric: k for k in look_daily(doubled, "control").last()}["engagement"]
    assert twice.lift.log == pytest.approx(again.lift.log) and twice.lift.se == pytest.approx(again.lift.se)


def test_pairs_of_the_same_requests_need_less_than_a_split():
    rng = np.random.default_rng(1)
    level, requests = rng.gamma(1.0, size=400) * 10, rng.integers(1, 9, 400)
    paired = paired_lift(level * 1.02 + rng.normal(size=400) * 0.1, level, requests)
    treated = np.arange(400) % 2 == 0
    split = split_lift(treated, np.where(treated, 1.02, 1) * level, requests)
    assert paired and split and paired.se < split.se / 5
    assert paired.relative == pytest.approx(0.02, abs=0.003) and paired_lift(level, level, requests) is None


def test_a_wrong_split_is_refused_with_what_to_do_and_a_meant_one_is_not():
    wrong = sample_ratio({"control": 5000, "student": 5400})
    assert wrong.refused and "SAMPLE RATIO MISMATCH" in str(wrong) and "experiment: shares" in str(wrong)
    # Five standard deviations of a thousand users, and two.
    assert sample_ratio({"a": 580, "b": 420}).refused and not sample_ratio({"a": 530, "b": 470}).refused
    meant = sample_ratio({"control": 9480, "student": 520}, {"control": 0.95, "student": 0.05})
    assert not meant.refused and "9,480 (94.80% of 95.00% meant)" in str(meant)
    with pytest.raises(ValueError, match=r"shares of \['a', 'b'\], but users met \['a', 'c'\]"):
        sample_ratio({"a": 1, "c": 1}, {"a": 1, "b": 1})


def test_no_figure_counts_where_the_split_is_wrong_and_who_met_both_variants_counts_in_none():
    rows, history = app(400, 4, seed=2)
    kept = rows.filter(
        pa.array(
            [
                arm == "control" or user % 4 == 1
                for arm, user in zip(rows["arm"].to_pylist(), rows["user_id"].to_pylist(), strict=True)
            ]
        )
    )
    refused = look_daily(kept, "control", history)
    assert refused.ratio and refused.ratio.refused and refused.looks == []
    third = look_daily(kept, "control", history, shares={"control": 2, "student": 1})
    assert third.ratio and not third.ratio.refused and third.looks

    users = rows["user_id"].to_numpy()
    moved = [
        "student" if user < 60 and day > START else arm
        for arm, user, day in zip(rows["arm"].to_pylist(), users, rows["day"].to_pylist(), strict=True)
    ]
    both = look_daily(rows.set_column(0, "arm", pa.array(moved)), "control")
    met = {user: set() for user in users.tolist()}
    for user, arm in zip(users.tolist(), moved, strict=True):
        met[user].add(arm)
    several = sum(len(arms) > 1 for arms in met.values())
    assert both.ratio and both.ratio.in_both == several > 0
    assert sum(both.ratio.users.values()) == len(met) - several and f"{several} more met several" in str(both.ratio)


def test_users_who_all_met_both_variants_are_no_split():
    assert sample_ratio({"control": 0, "student": 0}, in_both=9).refused
    rows, _ = app(60, 2, seed=6)
    turned = {"control": "student", "student": "control"}
    other = rows.set_column(0, "arm", pa.array([turned[arm] for arm in rows["arm"].to_pylist()]))
    looks = look_daily(pa.concat_tables([rows, other]), "control")
    assert looks.looks == [] and looks.ratio and looks.ratio.refused and "met several variants" in str(looks.ratio)


def test_few_users_decide_nothing():
    rows, history = app(40, 3, seed=5)
    assert look_daily(rows, "control", history).looks == []


def test_the_error_that_is_planned_is_the_one_that_comes():
    rows, history = app(400, 6, seed=7)
    days = sorted(rows["day"].unique().to_pylist())
    panel = Panel.of(rows, days)
    before = panel.before(history)["engagement"]
    value, requests = panel.values["engagement"][:, -1], panel.requests[:, -1]
    for known in (None, before):
        planned = even_split_error(value, requests, known)
        lift = split_lift(panel.users % 2 == 1, value, requests, known)
        assert planned and lift and lift.se == pytest.approx(planned, rel=0.08)


def test_covariates_of_who_was_not_there_are_nothing():
    found = covariates(np.array([0.0, 4.0, 8.0]), np.array([0, 2, 2]))
    assert found.tolist() == [[0, 0, 0], [pytest.approx(-2 / 3), 2, 1], [pytest.approx(2 / 3), 2, 1]]
