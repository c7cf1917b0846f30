import numpy as np
import pyarrow as pa
import pytest

from ml.lab.study.analysis import Lift, levels, lifts
from ml.lab.study.design import Design, parse_variant
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


def by_variant(table: list[Lift]) -> dict[str, Lift]:
    return {lift.variant: lift for lift in table}


def test_a_lift_is_the_mean_over_worlds_of_the_difference_to_the_control_of_the_same_world_and_seed():
    values = {("control", 1, 1): 0.70, ("control", 1, 2): 0.72, ("control", 2, 1): 0.80, ("control", 2, 2): 0.78}
    values |= {("student", w, s): v + {1: 0.02, 2: 0.04}[w] + {1: 0.0, 2: 0.01}[s] for (_, w, s), v in values.items()}
    found = by_variant(lifts(rows(values), DESIGN))["student"]
    assert found.lift == pytest.approx((0.025 + 0.045) / 2)
    assert (found.worlds, found.seeds, found.above, found.base) == (2, 2, 2, pytest.approx(0.75))
    assert found.lo < found.lift < found.hi and found.detectable > 0


def test_one_world_has_the_interval_of_its_users_and_of_its_seeds():
    alone = {("control", 1, 1): 0.7, ("student", 1, 1): 0.8}
    found = by_variant(lifts(rows(alone, spread=1e-3), DESIGN))["student"]
    assert found.lift == pytest.approx(0.1) and found.lo < 0.1 < found.hi and found.p < 1e-6
    seeds = {("control", 1, s): 0.7 for s in (1, 2, 3, 4)} | {("student", 1, s): 0.75 + 0.02 * s for s in (1, 2, 3, 4)}
    wider = by_variant(lifts(rows(seeds, spread=1e-6), DESIGN))["student"]
    # Four seeds 0.02 apart: their resampled mean has a deviation of 0.0224 / 2; here are 50 draws of it.
    assert (wider.hi - wider.lo) == pytest.approx(2 * 1.96 * 0.0112, rel=0.3)


def test_p_values_are_corrected_over_the_whole_table():
    values = {(variant, w, 1): 0.7 + 0.001 * w for w in range(1, 7) for variant in ("control", "student shuffled")}
    values |= {("student shuffled", w, 1): 0.7 + 0.002 * w * (-1) ** w for w in range(1, 7)}
    values |= {("student", w, 1): 0.72 + 0.001 * w for w in range(1, 7)}
    found = by_variant(lifts(rows(values, spread=1e-4), DESIGN))
    assert found["student"].p < found["student shuffled"].p
    assert found["student"].p_holm == pytest.approx(2 * found["student"].p)
    assert found["student shuffled"].p_holm == pytest.approx(found["student shuffled"].p)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, of, tables = np.random.default_rng(0), 150, []
    for draw in range(of):
        values = {("control", w, 1): 0.7 for w in range(6)}
        values |= {("student", w, 1): 0.7 + 0.01 + rng.normal(0, 0.01) for w in range(6)}
        tables.append(rows(values, spread=1e-5, task=f"ctr {draw}"))
    found = [lift for lift in lifts(pa.concat_tables(tables), DESIGN) if lift.variant == "student"]
    assert len(found) == of
    assert 0.89 <= sum(lift.lo <= 0.01 <= lift.hi for lift in found) / of <= 0.995


def test_the_teachers_own_figures_are_levels_and_no_variant():
    table = rows({("control", 1, 1): 0.7, ("student", 1, 1): 0.8, ("teacher", 1, 0): 0.6})
    assert levels(table)["homepage", "ctr", "all"] == pytest.approx({"control": 0.7, "student": 0.8, "teacher": 0.6})
    assert [lift.variant for lift in lifts(table, DESIGN)] == ["student"]


def test_an_variant_can_be_compared_with_another_one_and_placebos_cannot():
    values = {(variant, w, 1): 0.7 + gain for variant, gain in VARIANTS.items() for w in (1, 2)}
    table = lifts(rows(values), DESIGN, against="auxiliary")
    assert [(x.variant, x.control, round(x.lift, 6)) for x in table] == [("student", "auxiliary", 0.02)]


def test_levels_of_a_dial_are_apart_and_compared_with_their_own_control():
    plain = rows({("control", w, 1): 0.7 for w in (1, 2)} | {("student", w, 1): 0.73 for w in (1, 2)})
    less = rows(
        {("control", w, 1): 0.6 for w in (1, 2)} | {("student", w, 1): 0.61 for w in (1, 2)}, condition="volume 0.5"
    )
    table = lifts(pa.concat_tables([less, plain]), DESIGN)
    assert [(x.condition, round(x.lift, 6)) for x in table] == [("", 0.03), ("volume 0.5", 0.01)]
    assert levels(pa.concat_tables([less, plain]))["homepage", "ctr", "all"]["control"] == pytest.approx(0.7)


def test_a_claim_counts_as_shown_only_where_its_whole_interval_does():
    def lift(variant: str, lo: float, hi: float, slice_: str = "all", condition: str = "") -> Lift:
        middle, placebo = (lo + hi) / 2, parse_variant(variant).placebo
        ends = (middle, lo, hi, 0.5, 0.5, 0.1, 3, 1, 3)
        return Lift(condition, "homepage", "ctr", slice_, "auc", variant, "control", placebo, 0.7, *ends)

    means = {("homepage", "ctr", "all"): {"control": 0.7, "teacher": 0.6}}
    good = [
        lift("student", 0.01, 0.02),
        lift("student shuffled", -0.1, 0.003),
        lift("student", -0.1, 0.1, condition="shared_taste 0"),
    ]
    shown = {f.claim: f.shown for f in findings(good, means)}
    assert shown == {
        "The student beats its control on CTR.": True,
        "The teacher is worse on the app than the control that it helps.": True,
        "With labels shuffled within the day nothing is gained.": True,
        "The placebos of `student` stay below a quarter of its lift.": True,
        "Where the platforms share no taste, nothing is gained.": True,
    }
    across = [
        lift("student", -0.01, 0.05),
        lift("student", 0.0, 0.2, slice_="new_releases"),
        lift("student noise", 0.001, 0.1),
        lift("student", 0.001, 0.1, condition="shared_taste 0"),
    ]
    assert not any(f.shown for f in findings(across, {("homepage", "ctr", "all"): {"control": 0.5, "teacher": 0.6}}))


def test_an_variant_without_ids_is_compared_with_a_control_without_ids():
    assert parse_variant("student without_ids").control == "control without_ids"
    assert parse_variant("student noise").control == "control"
