from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from ml.evaluation.over_worlds import over_worlds
from ml.experiments.analysis import Effect, effects, effects_by_day
from ml.lab.live.design import Design, load_design
from ml.lab.live.report import is_same_traffic

DAYS = (date(2026, 1, 1), date(2026, 1, 2))


def table(rows: list[dict]) -> pa.Table:
    filled = [
        {"surface": "homepage", "world": 1, "estimate": "split", "day": DAYS[0], "discovery": 0.0, "new_releases": 0.0}
        | row
        for row in rows
    ]
    return pa.Table.from_pylist(filled)


def by_metric(found: list[Effect]) -> dict[str, Effect]:
    return {effect.metric: effect for effect in found}


def many(lift: float, users: int = 400, world: int = 1, shared: bool = False, **more: object) -> list[dict]:
    """Users of two variants; the student's engagement is the control's times (1 + lift)."""
    rng = np.random.default_rng(world)
    rows = []
    for user in range(users):
        level, requests = float(rng.gamma(2.0)), int(rng.integers(1, 5))
        for variant in ("control", "student") if shared else (("control", "student")[user % 2],):
            value = level * requests * (1 + lift * (variant == "student"))
            rows.append(
                {"arm": variant, "user_id": user, "requests": requests, "engagement": value, "world": world, **more}
            )
    return rows


def test_a_difference_is_the_ratio_of_sums_over_requests_less_one():
    rows = table(
        [
            {"arm": "control", "user_id": 1, "requests": 2, "engagement": 10.0, "discovery": 1.0},
            {"arm": "control", "user_id": 2, "requests": 2, "engagement": 30.0, "new_releases": 5.0},
            {"arm": "control", "user_id": 2, "requests": 1, "engagement": 10.0, "day": DAYS[1]},
            {"arm": "student", "user_id": 3, "requests": 4, "engagement": 44.0, "discovery": 2.0},
        ]
    )
    found = by_metric(effects(rows, "control"))
    engagement = found["engagement"]
    assert engagement.level == pytest.approx(10.0) and engagement.lift.estimate == pytest.approx(0.1)
    assert (engagement.requests, engagement.users) == ((5, 4), 3)
    assert (engagement.variant, engagement.baseline, engagement.estimate) == ("student", "control", "split")
    assert found["discovery"].lift.estimate == pytest.approx((2 / 4) / (1 / 5) - 1)
    assert found["new_releases"].lift.estimate == pytest.approx(-1.0)
    per_day = effects_by_day(rows, "control")
    assert by_metric(per_day[DAYS[0]])["engagement"].lift.estimate == pytest.approx(11 / 10 - 1)
    assert list(per_day) == list(DAYS) and per_day[DAYS[1]] == []


def test_pairing_takes_the_differences_between_users_out():
    paired = by_metric(effects(table(many(0.02, shared=True, estimate="paired")), "control"))["engagement"].lift
    split = by_metric(effects(table(many(0.02)), "control"))["engagement"].lift
    assert paired.estimate == pytest.approx(0.02) and (paired.lo, paired.hi) == pytest.approx((0.02, 0.02))
    assert split.lo < split.estimate < split.hi and split.hi - split.lo > 0.1


def test_one_ranker_in_both_variants_gives_exactly_nothing_where_both_answer():
    rows = [row for world in (1, 2, 3) for row in many(0.0, shared=True, world=world, estimate="paired")]
    lift = by_metric(effects(table(rows), "control"))["engagement"].lift
    assert (lift.estimate, lift.lo, lift.hi, lift.worlds, lift.above) == (0.0, 0.0, 0.0, 3, 0)


@pytest.mark.slow
def test_intervals_over_users_cover_the_truth_about_as_often_as_they_say():
    covered = 0
    for world in range(100):
        lift = by_metric(effects(table(many(0.05, users=200, world=world)), "control"))["engagement"].lift
        covered += lift.lo <= 0.05 <= lift.hi
    assert 88 <= covered <= 100


def test_worlds_are_averaged_and_their_spread_counts():
    rows = [row for world, lift in ((1, 0.01), (2, 0.03), (3, 0.05)) for row in many(lift, world=world, shared=True)]
    lift = by_metric(effects(table(rows), "control"))["engagement"].lift
    assert lift.estimate == pytest.approx(0.03) and (lift.worlds, lift.above) == (3, 3)
    # Student's t of three values 0.02 apart: 4.30 standard errors of 0.02 / sqrt(3).
    assert lift.hi - lift.estimate == pytest.approx(4.303 * 0.02 / np.sqrt(3), rel=0.05)


def test_pooling_one_world_takes_its_users_percentiles():
    replicates = np.linspace(0, 1, 1001)
    alone = over_worlds([0.5], [replicates])
    assert (alone.lo, alone.hi) == pytest.approx((0.025, 0.975))
    assert alone.p == pytest.approx(2 * 0.0196, rel=0.02), "0.5 is 2.06 of the deviations that reach to its end"
    assert alone.at(0.99) == pytest.approx((0.5 - 0.475 * 2.576 / 1.96, 0.5 + 0.475 * 2.576 / 1.96), rel=1e-3)


def test_an_variant_without_its_baseline_or_without_users_has_no_effect():
    assert effects(table([{"arm": "student", "user_id": 1, "requests": 1, "engagement": 1.0}]), "control") == []
    rows = [{"arm": variant, "user_id": 1, "requests": 1, "engagement": 0.0} for variant in ("control", "student")]
    assert effects(table(rows), "control") == []


def test_the_committed_designs_are_what_they_say():
    live, null, quick = (load_design(name) for name in ("live", "aa", "quick"))
    assert null.is_aa and not live.is_aa
    assert is_same_traffic(null, live) and not is_same_traffic(quick, live)
    assert len(live.worlds) >= 10 and live.days * live.requests_per_day >= 40_000
    users = [f"u{i}" for i in range(4000)]
    assert (live.variant_of(users) == null.variant_of(users)).all()
    assert live.variant_of(users).mean() == pytest.approx(0.5, abs=0.03)
    other = live.model_copy(update={"seed": 2})
    assert (live.variant_of(users) == other.variant_of(users)).mean() == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="no experiment 'nope'"):
        load_design("nope")
    with pytest.raises(ValueError, match="20 shown of 10 candidates"):
        Design(**{**quick.model_dump(), "shown": 20, "candidates": 10})
