from collections.abc import Mapping

import numpy as np
import pytest

from ml.evaluation.bootstrap import UserWeights
from ml.evaluation.importance import MAX_ROWS, drop_of, input_values
from ml.evaluation.transfer import figure

TAKES = {"ctr": True, "trail": False}


def world(n: int, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return inputs, labels, users and days: ``known`` says twice as much as ``weak``, ``idle`` nothing."""
    rng = np.random.default_rng(seed)
    inputs = {name: rng.normal(size=n).astype(np.float32) for name in ("idle", "weak", "known")}
    inputs["idle_vector"] = rng.normal(size=(n, 3)).astype(np.float32)
    users, days = rng.integers(200, size=n), np.sort(rng.integers(3, size=n))
    value = inputs["known"] + 0.5 * inputs["weak"] + rng.normal(size=200)[users]
    ctr = (rng.random(n) < 1 / (1 + np.exp(-value))).astype(float)
    return inputs, {"ctr": ctr, "trail": np.where(ctr > 0, value, np.nan)}, users, days


def score(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    value = rows["known"] + 0.5 * rows["weak"] + 0 * rows["idle_vector"].sum(axis=1)
    return {"ctr": value, "trail": value}


def test_what_an_input_is_worth_is_the_drop_without_it_and_an_idle_one_is_worth_nothing():
    inputs, labels, users, days = world(6000)
    found = input_values(score, inputs, labels, TAKES, users=users, days=days, seed=0)
    assert [v.input for v in found if v.task == "ctr"][:2] == ["known", "weak"]
    by = {(v.input, v.task): v for v in found}
    assert len(by) == 8 and by["known", "trail"].metric == "r2"
    for task in TAKES:
        assert by["known", task].lo > by["weak", task].hi > by["weak", task].lo > 0
        for idle in ("idle", "idle_vector"):
            assert (by[idle, task].drop, by[idle, task].lo, by[idle, task].hi) == (0, 0, 0)


@pytest.mark.parametrize("binary", [True, False])
def test_the_interval_of_a_drop_is_that_of_a_bootstrap_over_users(binary: bool):
    rng, n = np.random.default_rng(3), 3000
    users = rng.integers(120, size=n)
    level, taste = rng.normal(size=120)[users], rng.normal(size=n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-level - taste))).astype(float) if binary else level + taste
    ours, theirs = (level + taste + rng.normal(size=n)).round(1), (taste + rng.normal(size=n)).round(1)
    drop, error = drop_of(labels, ours, theirs, users, binary=binary)
    weights = UserWeights(users, seed=0, replicates=1500)
    (a, a_drawn), (b, b_drawn) = (figure(weights, weights.codes, labels, s, binary=binary) for s in (ours, theirs))
    assert drop == pytest.approx(a - b) and error == pytest.approx((a_drawn - b_drawn).std(), rel=0.1)


def test_values_move_within_a_day_only_and_few_rows_are_scored():
    inputs, labels, users, days = world(MAX_ROWS + 500)
    inputs["known"] = days.astype(np.float32)
    seen: list[int] = []

    def counted(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(len(rows["known"]))
        return score(rows)

    found = {(v.input, v.task): v for v in input_values(counted, inputs, labels, TAKES, users=users, days=days, seed=0)}
    assert found["known", "ctr"].drop == 0, "a value that is one all day is its own permutation"
    assert set(seen) == {MAX_ROWS} and len(seen) == 1 + len(inputs)


def test_a_task_without_two_classes_has_no_figure():
    inputs, labels, users, days = world(50)
    labels["ctr"] = np.zeros(50)
    found = input_values(score, inputs, labels, TAKES, users=users, days=days, seed=0)
    assert all(np.isnan(v.drop) and np.isnan(v.lo) for v in found if v.task == "ctr")
