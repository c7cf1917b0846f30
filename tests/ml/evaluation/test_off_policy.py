"""What a ranker's first choices would earn: by hand, by its properties, from a lake, and where it is told."""

import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.evaluation.bootstrap import UserWeights
from ml.evaluation.evaluate import compute_evaluation
from ml.evaluation.frame import Frame
from ml.evaluation.off_policy import estimate, first_choice, logged, off_policy, read_logged
from ml.evaluation.report import earned, markdown_summary
from ml.evaluation.results import Evaluation, OffPolicy, OffPolicyValue
from ml.foundation.lake import Lake
from ml.surfaces.spec import Surface
from tests.ml.evaluation.conftest import KINDS, PARTITION, SEED, World
from tests.support.known import present


def drawn(lists: int, items: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lists of equal length, a user for some of them, labels and expected labels; each [lists * items]."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(lists), items)
    users = np.repeat(rng.integers(0, max(2, lists // 2), lists), items)
    return codes, users, (rng.random(len(codes)) < 0.3).astype(float), rng.random(len(codes))


@settings(max_examples=25, deadline=None)
@given(lists=st.integers(2, 40), items=st.integers(2, 8), seed=st.integers(0, 2**16))
def test_even_propensities_and_an_even_policy_give_the_plain_mean(lists: int, items: int, seed: int) -> None:
    codes, users, labels, expected = drawn(lists, items, seed)
    weights = UserWeights(users, seed=1, replicates=20)
    even = first_choice(np.zeros(len(codes)), codes)
    for propensity in (np.full(len(codes), 1 / items), np.full(len(codes), np.nan)):  # stated, and by chance alone
        log = logged(np.arange(len(codes)), codes, propensity)
        for q in (None, expected):
            found = estimate(weights, weights.codes, labels, even, log, q)
            assert found.value == pytest.approx(labels.mean()), "every row counts alike"
            assert found.clipped == 0


@settings(max_examples=25, deadline=None)
@given(lists=st.integers(2, 40), items=st.integers(2, 8), seed=st.integers(0, 2**16))
def test_doubly_robust_is_the_truth_for_a_perfect_model_whatever_the_propensities(
    lists: int, items: int, seed: int
) -> None:
    codes, users, _, truth = drawn(lists, items, seed)
    rng = np.random.default_rng(seed)
    log = logged(np.arange(len(codes)), codes, rng.uniform(0.01, 1, len(codes)))  # they add up to nothing
    weights = UserWeights(users, seed=1, replicates=20)
    policy = first_choice(rng.random(len(codes)), codes)
    value = (policy * truth).sum() / lists
    assert estimate(weights, weights.codes, truth, policy, log, truth).value == pytest.approx(value)


def test_a_small_case_is_what_is_computed_by_hand() -> None:
    """Two lists of two items. The policy takes the first of each, placed with chances of 0.8 and 0.2."""
    lists, users = np.array([0, 0, 1, 1]), np.array([5, 5, 7, 7])
    labels, expected = np.array([1.0, 0.0, 0.0, 1.0]), np.array([0.6, 0.2, 0.1, 0.4])
    log = logged(np.arange(4), lists, np.array([0.8, 0.8, 0.2, 0.2]))
    policy = first_choice(np.array([3.0, 1.0, 2.0, -1.0]), lists)
    assert policy.tolist() == [1, 0, 1, 0]
    weights = UserWeights(users, seed=1, replicates=2)
    # Weights 1.25 and 5, of which the root of four rows, 2, is left.
    found = estimate(weights, weights.codes, labels, policy, log)
    assert found.weights.tolist() == [1.25, 0, 2, 0] and found.clipped == 0.25
    assert found.value == pytest.approx(1.25 / 3.25)
    model = (0.6 + 0.1) / 2
    residual = (1.25 * (1 - 0.6) + 2 * (0 - 0.1)) / 3.25
    assert estimate(weights, weights.codes, labels, policy, log, expected).value == pytest.approx(model + residual)


def test_ties_share_the_place_and_lists_of_one_leave_no_choice() -> None:
    lists = np.array([3, 3, 3, 9, 4, 4])
    assert first_choice(np.array([1.0, 2.0, 2.0, 0, -1, -2]), lists).tolist() == [0, 0.5, 0.5, 1, 1, 0]
    log = logged(np.arange(6), lists, np.full(6, np.nan))
    assert log.rows.tolist() == [0, 1, 2, 4, 5] and (log.alone, log.random) == (1, 5)
    assert log.propensity.tolist() == pytest.approx([1 / 3] * 3 + [1 / 2] * 2)


def land(lake: Lake, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Stage the examples' exposures with what chance did: every session an even order, but for ``change``."""
    examples = lake.sql("select day, exposure_id, user_id, session_id from lake.features.examples_homepage")
    session = examples["session_id"].to_numpy()
    _, codes, counts = np.unique(session, return_inverse=True, return_counts=True)
    columns = {
        "list_id": np.full(len(session), -1),
        "propensity": 1 / counts[codes],
        "random": np.zeros(len(session), bool),
    }
    change(columns)
    shown = examples.append_column("list_id", pa.array(columns["list_id"], mask=columns["list_id"] < 0))
    shown = shown.append_column("propensity", pa.array(columns["propensity"], from_pandas=True))
    shown = shown.append_column("random", pa.array(columns["random"]))
    days = sorted(set(examples["day"].to_pylist()))
    lake.replace_days("features.stg_exposures", shown, days)


def value(evaluation: Evaluation, model: str, reference: str | None = None, estimator: str = "dr") -> OffPolicyValue:
    return present(present(evaluation.off_policy).value(model, "ctr", reference, estimator))


def looked_at(lake: Lake, surface: Surface) -> OffPolicy:
    """What is known of the evaluation rows' propensities, before any model is asked about."""
    days = surface.evaluation_days(PARTITION)
    rows = lake.sql(
        "select user_id from lake.features.examples_homepage where day between ? and ? order by exposure_id",
        [days[0], days[-1]],
    )
    users = rows["user_id"].to_numpy()
    weights = UserWeights(users, seed=1, replicates=50)
    frame = Frame(users, users, {}, {}, {}, {}, {})
    return present(off_policy(frame, [], weights, read_logged(lake, surface, days)))


@pytest.mark.slow
def test_propensities_that_landed_are_in_the_evaluation_and_what_stores_and_tells_it(
    small_world: Callable[..., tuple[Lake, Surface]], world: World
) -> None:
    assert world.evaluation.off_policy is None and earned(world.evaluation) == []
    lake, surface = small_world(rows=1200)
    land(lake, lambda columns: None)
    evaluation = compute_evaluation(lake, surface, PARTITION, teacher_outputs=KINDS, seed=SEED, replicates=50)
    known = present(evaluation.off_policy)
    assert known.rows + known.alone == evaluation.rows and known.alone > 0 and known.random == 0
    assert known.added == pytest.approx(1) and known.adds_up
    for estimator in ("snips", "dr"):
        student, gain = value(evaluation, "student", None, estimator), value(evaluation, "student", "shown", estimator)
        assert student.lo < student.value < student.hi and student.n == known.rows
        assert gain.lo > 0 and gain.value < student.value, "it knows which items are clicked"
        assert (
            1 < student.effective_positives < student.effective_rows < student.n
            and 1 < student.effective_users <= known.users
        )
    over = value(evaluation, "student", "control")
    assert over.value == pytest.approx(value(evaluation, "student").value - value(evaluation, "control").value)
    assert {v.task for v in known.values} == {"ctr", "discovery"}, "a label of clicked rows alone is no reward"
    text = evaluation.to_json()
    assert Evaluation.from_json(text).to_json() == text
    assert present(Evaluation.from_json(text).off_policy).value("student", "ctr") == known.value("student", "ctr")
    old = {k: v for k, v in json.loads(text).items() if k != "off_policy"}
    assert Evaluation.from_json(json.dumps(old)).off_policy is None, "an evaluation of an earlier version"
    told = "\n".join(earned(evaluation))
    assert "the student's first choice would earn" in told and "effective rows" in told
    assert told.splitlines()[1] in markdown_summary(evaluation, surface)


@pytest.mark.slow
def test_rows_that_chance_put_there_are_candidates_of_their_user_and_others_are_left_out(
    small_world: Callable[..., tuple[Lake, Surface]],
) -> None:
    lake, surface = small_world()

    def some(columns: dict[str, np.ndarray]) -> None:
        columns["propensity"][:] = np.nan
        columns["random"][::4] = True

    land(lake, some)
    known = looked_at(lake, surface)
    of_days = lake.sql(
        "select count(*) as n, count(distinct user_id) as users from lake.features.stg_exposures "
        "where random and day in (select distinct day from lake.ml.predictions_homepage)"
    ).to_pylist()[0]
    assert known.rows + known.alone == of_days["n"] and known.random == known.rows
    assert known.lists == known.users <= of_days["users"] and known.adds_up


@pytest.mark.slow
def test_propensities_of_a_larger_pool_do_not_add_up(small_world: Callable[..., tuple[Lake, Surface]]) -> None:
    lake, surface = small_world()

    def of_a_pool(columns: dict[str, np.ndarray]) -> None:
        columns["propensity"] *= 0.01

    land(lake, of_a_pool)
    known = looked_at(lake, surface)
    assert known.added == pytest.approx(100) and not known.adds_up


@pytest.mark.slow
def test_a_list_id_divides_a_session_and_a_stage_of_an_earlier_version_has_none(
    small_world: Callable[..., tuple[Lake, Surface]],
) -> None:
    lake, surface = small_world()

    def in_pairs(columns: dict[str, np.ndarray]) -> None:
        columns["list_id"][:] = np.arange(len(columns["list_id"])) // 2
        columns["propensity"][:] = 0.5

    land(lake, in_pairs)
    known = looked_at(lake, surface)
    assert known.rows == 2 * known.lists > 0 and known.added == 1
    lake.connection.execute("alter table lake.features.stg_exposures drop column list_id")
    assert read_logged(lake, surface, surface.evaluation_days(PARTITION)) is None
