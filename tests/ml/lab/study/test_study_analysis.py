from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import t, ttest_1samp

from ml.foundation.documents import load_yaml
from ml.lab.live.design import DESIGNS_FILE as LIVE_DESIGNS
from ml.lab.live.design import load_design as load_live_design
from ml.lab.study.analysis import Lift, kept, levels, lifts
from ml.lab.study.design import Design, design_names, load_design, parse_variant
from ml.lab.study.report import findings
from ml.lab.study.trials import TRIALS_SCHEMA

PART = {"worlds": (1,), "variants": ("student", "student shuffled", "auxiliary")}
VARIANTS = {"control": 0.0, "auxiliary": 0.01, "student": 0.03, "student shuffled": 0.0}
TURNED = {"worlds": (1,), "variants": ("student",), "dials": {"volume": (0.5,)}}
DESIGN = Design.model_validate(
    {"name": "t", "description": "d", "preset": "tiny", "seeds": (1,), "parts": [PART, TURNED]}
)


def rows(
    values: dict[tuple[str, int, int], float], spread: float = 0.01, task: str = "ctr", condition: str = ""
) -> pa.Table:
    """Return trials {(variant, world, seed): AUC} whose users' replicates lie ``spread`` around the value."""
    made = []
    for (variant, world, seed), value in values.items():
        noise = np.random.default_rng([world, 5]).normal(0, spread, 50)
        replicates = (value + noise * (1.5 if variant == "student" else 1.0)).tolist()
        made.append(
            {"trial": f"{variant}-{world}-{seed}", "world": world, "surface": "homepage", "arm": variant, "seed": seed}
            | {
                "condition": condition,
                "task": task,
                "slice": "all",
                "metric": "auc",
                "value": value,
                "replicates": replicates,
                "n": 10,
            }
        )
    return pa.Table.from_pylist(made, schema=TRIALS_SCHEMA)


def six(lift: float, p: float) -> list[float]:
    """Return AUCs of six worlds whose differences to 0.7 have this mean, and this p-value by a t-test."""
    spread = np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])
    wanted = lift / t.isf(p / 2, 5) * np.sqrt(6)
    return (0.7 + lift + spread * wanted / spread.std(ddof=1)).tolist()


def by_variant(table: list[Lift]) -> dict[str, Lift]:
    return {lift.variant: lift for lift in table}


@pytest.mark.slow
def test_a_lift_is_the_mean_over_worlds_of_the_difference_to_the_control_of_the_same_world_and_seed():
    values = {("control", 1, 1): 0.70, ("control", 1, 2): 0.72, ("control", 2, 1): 0.80, ("control", 2, 2): 0.78}
    values |= {("student", w, s): v + {1: 0.02, 2: 0.04}[w] + {1: 0.0, 2: 0.01}[s] for (_, w, s), v in values.items()}
    found = by_variant(lifts(rows(values), DESIGN))["student"]
    assert found.lift == pytest.approx((0.025 + 0.045) / 2)
    assert (found.worlds, found.seeds, found.above, found.base) == (2, 2, 2, pytest.approx(0.75))
    assert found.lo < found.lift < found.hi and found.detectable > 0


@pytest.mark.slow
def test_one_world_has_the_interval_of_its_users_and_of_its_seeds():
    alone = {("control", 1, 1): 0.7, ("student", 1, 1): 0.8}
    found = by_variant(lifts(rows(alone, spread=1e-3), DESIGN))["student"]
    assert found.lift == pytest.approx(0.1) and found.lo < 0.1 < found.hi and found.p < 1e-6
    seeds = {("control", 1, s): 0.7 for s in (1, 2, 3, 4)} | {("student", 1, s): 0.75 + 0.02 * s for s in (1, 2, 3, 4)}
    wider = by_variant(lifts(rows(seeds, spread=1e-6), DESIGN))["student"]
    # Four seeds 0.02 apart: their resampled mean has a deviation of 0.0224 / 2; here are 50 draws of it.
    assert (wider.hi - wider.lo) == pytest.approx(2 * 1.96 * 0.0112, rel=0.3)


@pytest.mark.slow
def test_only_the_four_primary_claims_are_corrected_and_only_among_each_other():
    tables = []
    for task, p_of in (("ctr", 0.004), ("trail", 0.02), ("discovery", 0.012)):
        values = {(variant, w, 1): 0.7 for w in range(6) for variant in ("control", "student shuffled", "auxiliary")}
        values |= {(v, w, 1): x for v in ("student", "auxiliary") for w, x in enumerate(six(0.01, p_of))}
        tables.append(rows(values, task=task))
    found = lifts(pa.concat_tables(tables), DESIGN)
    family = {lift.task: lift for lift in found if lift.corrected is not None}
    assert {lift.variant for lift in family.values()} == {"student"} and len(found) == 9
    ps = {task: (lift.p, lift.corrected.p) for task, lift in family.items() if lift.corrected}
    assert ps["ctr"] == pytest.approx((0.004, 3 * 0.004)) and ps["discovery"] == pytest.approx((0.012, 2 * 0.012))
    assert ps["trail"] == pytest.approx((0.02, 2 * 0.012)), "Holm's p-values do not fall"
    assert all(lift.shown for lift in family.values())
    alone = {lift.task: lift for lift in found if lift.variant == "auxiliary"}
    assert all(lift.corrected is None and not lift.shown for lift in alone.values()), "the rest shows nothing"


@pytest.mark.slow
@pytest.mark.parametrize(("ps", "shown"), [((0.02, 0.03, 0.04), 0), ((0.01, 0.03, 0.04), 1), ((0.01, 0.02, 0.04), 3)])
def test_a_claim_is_shown_exactly_where_its_corrected_p_value_says_so(ps: tuple[float, ...], shown: int):
    tables = []
    for task, p_of in zip(("ctr", "trail", "discovery"), ps, strict=True):
        values = {("control", w, 1): 0.7 for w in range(6)} | {
            ("student", w, 1): x for w, x in enumerate(six(0.01, p_of))
        }
        tables.append(rows(values, task=task))
    table = lifts(pa.concat_tables(tables), DESIGN)
    assert all(lift.lo > 0 for lift in table), "each alone lies above 0"
    assert sum(lift.shown for lift in table) == shown
    assert all(lift.shown == (lift.corrected.p < 0.05) for lift in table if lift.corrected)
    claims = [f for f in findings(table, {}) if f.kind == "primary"]
    assert [f.verdict for f in claims].count("**shown**") == shown
    assert not any("p 1.0" in f.evidence for f in claims if f.holds)


@pytest.mark.slow
def test_worlds_are_the_unit_and_their_users_are_not_counted_twice():
    values = {("control", w, 1): 0.7 for w in range(6)} | {("student", w, 1): x for w, x in enumerate(six(0.01, 0.01))}
    quiet, loud = (by_variant(lifts(rows(values, spread=s), DESIGN))["student"] for s in (1e-6, 0.05))
    assert (quiet.lo, quiet.hi, quiet.p) == (loud.lo, loud.hi, loud.p)
    differences = np.array(six(0.01, 0.01)) - 0.7
    test: Any = ttest_1samp(differences, 0)
    assert quiet.p == pytest.approx(test.pvalue)
    assert (quiet.lo, quiet.hi) == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, of, tables = np.random.default_rng(0), 150, []
    for draw in range(of):
        values = {("control", w, 1): 0.7 for w in range(6)}
        values |= {("student", w, 1): 0.7 + 0.01 + rng.normal(0, 0.01) for w in range(6)}
        tables.append(rows(values, spread=1e-5, task=f"ctr {draw}"))
    found = [lift for lift in lifts(pa.concat_tables(tables), DESIGN) if lift.variant == "student"]
    assert len(found) == of
    assert 0.89 <= sum(lift.lo <= 0.01 <= lift.hi for lift in found) / of <= 0.995


@pytest.mark.slow
def test_the_teachers_own_figures_are_levels_and_no_variant():
    table = rows({("control", 1, 1): 0.7, ("student", 1, 1): 0.8, ("teacher", 1, 0): 0.6})
    assert levels(table)["homepage", "ctr", "all"] == pytest.approx({"control": 0.7, "student": 0.8, "teacher": 0.6})
    assert [lift.variant for lift in lifts(table, DESIGN)] == ["student"]


def test_an_variant_can_be_compared_with_another_one_and_placebos_cannot():
    values = {(variant, w, 1): 0.7 + gain for variant, gain in VARIANTS.items() for w in (1, 2)}
    table = lifts(rows(values), DESIGN, against="auxiliary")
    assert [(x.variant, x.control, round(x.lift, 6)) for x in table] == [("student", "auxiliary", 0.02)]


def test_the_transfer_ratio_is_the_share_of_the_ceilings_gain_that_a_variant_keeps():
    design = Design.model_validate(
        {"name": "t", "description": "d", "preset": "tiny", "seeds": (1,)}
        | {"parts": [{"worlds": (1,), "variants": ("student", "student shuffled", "ceiling")}]}
    )
    most = np.array([0.018, 0.020, 0.022, 0.019, 0.021])

    def table(noise: np.ndarray) -> pa.Table:
        values = {("control", w, 1): 0.7 for w in range(5)}
        values |= {("ceiling", w, 1): 0.7 + most[w] for w in range(5)}
        values |= {("student", w, 1): 0.7 + most[w] / 2 + noise[w] for w in range(5)}
        return rows(values | {("student shuffled", w, 1): 0.7 for w in range(5)})

    [exact] = kept(table(np.zeros(5)), design)
    assert (exact.variant, exact.ceiling, exact.gain) == ("student", pytest.approx(0.02), pytest.approx(0.01))
    assert (exact.ratio.lo, exact.ratio.hi) == pytest.approx((0.5, 0.5), abs=1e-6), "the two move together"
    [noisy] = kept(table(np.array([-0.002, 0.001, 0.002, 0.0, -0.001])), design)
    assert noisy.ratio.lo < 0.5 < noisy.ratio.hi < 0.75


@pytest.mark.slow
def test_one_world_shows_nothing_with_fewer_than_five_initialisations():
    def found(seeds: int) -> Lift:
        values = {("control", 1, s): 0.7 for s in range(seeds)} | {("student", 1, s): 0.8 for s in range(seeds)}
        return by_variant(lifts(rows(values, spread=1e-3), DESIGN))["student"]

    few, enough = found(4), found(5)
    assert few.corrected is not None and few.corrected.lo > 0.05 and not few.shown and enough.shown
    [claim] = [f for f in findings([few], {}) if f.kind == "primary"]
    assert claim.verdict == "**not shown**" and "4 of the 5 initialisations that one world needs" in claim.evidence


@pytest.mark.slow
def test_levels_of_a_dial_are_apart_and_compared_with_their_own_control():
    plain = rows({("control", w, 1): 0.7 for w in (1, 2)} | {("student", w, 1): 0.73 for w in (1, 2)})
    less = rows(
        {("control", w, 1): 0.6 for w in (1, 2)} | {("student", w, 1): 0.61 for w in (1, 2)}, condition="volume 0.5"
    )
    table = lifts(pa.concat_tables([less, plain]), DESIGN)
    assert [(x.condition, round(x.lift, 6)) for x in table] == [("", 0.03), ("volume 0.5", 0.01)]
    assert levels(pa.concat_tables([less, plain]))["homepage", "ctr", "all"]["control"] == pytest.approx(0.7)


def lift(variant: str, lo: float, hi: float, slice_: str = "all", condition: str = "") -> Lift:
    middle, placebo = (lo + hi) / 2, parse_variant(variant).placebo
    ends = (middle, lo, hi, 0.5, 0.1, 3, 1, 3)
    return Lift(condition, "homepage", "ctr", slice_, "auc", variant, "control", placebo, 0.7, *ends)


def test_a_placebo_is_shown_to_do_nothing_only_within_a_quarter_of_the_lifts_lower_end():
    def verdict(*placebos: tuple[float, float], student: tuple[float, float] = (0.008, 0.04)) -> str:
        names = ("student shuffled", "student noise")
        table = [lift("student", *student), *(lift(n, *ends) for n, ends in zip(names, placebos, strict=False))]
        [found] = [f for f in findings(table, {}) if f.kind == "placebo"]
        return found.verdict.strip("*")

    assert verdict((-0.0019, 0.0019), (-0.001, 0.001)) == "shown to do nothing"
    assert verdict((-0.0019, 0.0021)) == "not shown to do nothing", "below a quarter of the estimate, .006, only"
    assert verdict((-0.0021, 0.0019)) == "not shown to do nothing", "a loss is something"
    assert verdict((-0.0019, 0.0019), (-0.1, 0.001)) == "not shown to do nothing", "every placebo counts"
    assert verdict((-1e-9, 1e-9), student=(-0.001, 0.05)) == "not shown to do nothing", "nothing to be a quarter of"


def test_what_is_not_primary_says_that_it_is_exploratory():
    table = [
        lift("student", 0.01, 0.02),
        lift("student", 0.03, 0.05, slice_="new_releases"),
        lift("student", -0.001, 0.001, condition="shared_taste 0"),
    ]
    means = {("homepage", "ctr", "all"): {"control": 0.7, "teacher": 0.6}}
    found = {f.claim: f.verdict for f in findings(table, means)}
    assert set(found.values()) == {"exploratory: so it looks"} and len(found) == 3
    wide = [*table[:2], lift("student", -0.02, 0.02, condition="shared_taste 0")]
    [unshared] = [f for f in findings(wide, means) if f.claim.startswith("Where the platforms share no taste")]
    assert not unshared.holds, "an interval that reaches 0 does not show that nothing is gained"


def test_the_headline_is_run_in_worlds_that_no_other_design_has_looked_at():
    headline = load_design("headline")
    assert (
        len(headline.worlds) >= 10
        and headline.preset == "demo"
        and {"student", "student shuffled", "student noise"} <= {variant.name for variant in headline.variants}
    )
    others = {seed for name in design_names() if name != "headline" for seed in load_design(name).worlds}
    live = {seed for name in load_yaml(LIVE_DESIGNS) for seed in load_live_design(name).worlds}
    assert not set(headline.worlds) & (others | live | {1, 101, 102, 103})
    assert all(load_design(name).seen for name in design_names() if name != "quick"), "each says what was chosen on it"


def test_an_variant_without_ids_is_compared_with_a_control_without_ids():
    assert parse_variant("student without_ids").control == "control without_ids"
    assert parse_variant("student noise").control == "control"
