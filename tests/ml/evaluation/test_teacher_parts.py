from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.evaluation.teacher_parts import shares, teacher_parts
from ml.students.dataset import Dataset
from ml.surfaces.files import load_surface
from ml.surfaces.scaffold import TEMPLATES
from ml.surfaces.spec import Surface

USERS, ITEMS = 3000, 300


def drawn(
    user: float, item: float, pair: float, rows: int = 9_000, seed: int = 0
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Parts of logits of about three rows per user, items of rising popularity, with such variances."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(USERS, size=rows), (ITEMS * rng.random(rows) ** 2).astype(int)
    of_pairs = rng.normal(size=(USERS, ITEMS))[users, items]
    levels = rng.normal(size=USERS)[users], rng.normal(size=ITEMS)[items], of_pairs
    parts = [np.sqrt(v) * x for v, x in zip((user, item, pair), levels, strict=True)]
    return parts, users, items


def logits_of(user: float, item: float, pair: float, rows: int = 9_000, seed: int = 0) -> tuple[np.ndarray, ...]:
    """The sum of the drawn parts, with users and items."""
    parts, users, items = drawn(user, item, pair, rows, seed)
    return np.sum(parts, axis=0), users, items


@settings(max_examples=12, deadline=None)
@given(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, 3.0])] * 3).filter(any), st.integers(0, 9))
def test_the_shares_are_those_that_the_logits_were_drawn_with_though_users_have_three_rows(variances, seed):
    parts, users, items = drawn(*variances, seed=seed)
    found, of = shares(np.sum(parts, axis=0), users, items), np.array([part.var() for part in parts])
    assert found == pytest.approx(tuple(of / of.sum()), abs=0.05)
    assert sum(found) == pytest.approx(1)


def test_rows_of_one_pair_say_what_one_row_says():
    logits, users, items = logits_of(1, 1, 1)
    assert shares(*(np.repeat(a, 4) for a in (logits, users, items))) == pytest.approx(shares(logits, users, items))


@pytest.fixture(scope="module")
def surface() -> Surface:
    path = TEMPLATES / "surface.yaml"
    return load_surface(path, path.read_text(encoding="utf-8").replace("__surface__", "podcasts"))


def data_of(logits: np.ndarray, users: np.ndarray, items: np.ndarray) -> Dataset:
    ids = {"user_id": torch.from_numpy(users), "item_id": torch.from_numpy(items)}
    empty = torch.zeros(len(users), dtype=torch.int64)
    return Dataset(ids, {}, {"click": torch.from_numpy(logits).float()}, empty, ids["user_id"], empty)


@pytest.mark.parametrize(
    ("variances", "knows", "technique", "centre", "warned"),
    [
        ((1, 0, 0), "users", "auxiliary", None, True),
        ((0, 1, 0), "items", "auxiliary", None, False),
        ((0, 0, 1), "who likes what", "interaction", None, False),
        ((0.6, 0, 1), "who likes what", "interaction", "user_id", False),
    ],
)
def test_the_technique_follows_from_what_the_teacher_knows(
    surface: Surface, variances, knows, technique, centre, warned
):
    [parts] = teacher_parts(data_of(*logits_of(*variances, rows=30_000)), surface)
    assert (parts.technique, parts.centre) == (technique, centre) and f"knows mostly {knows}:" in parts.advice
    assert bool(parts.warning) == warned
    if warned:
        assert parts.kept < 0.3 and "centre_by: user_id takes" in parts.warning and "leave it out" in parts.warning


def test_a_teacher_that_says_the_same_of_every_row_has_no_parts(surface: Surface):
    logits, users, items = logits_of(1, 1, 1)
    [parts] = teacher_parts(data_of(np.full_like(logits, -2.0), users, items), surface)
    assert np.isnan([parts.user, parts.item, parts.pair, parts.kept]).all()
    assert parts.advice == "says the same of every row: there is nothing to learn" and not parts.warning


def test_a_surface_whose_candidates_have_no_id_has_none(surface: Surface):
    item = surface.inputs["item_id"].model_copy(update={"per_candidate": False})
    without = surface.model_copy(update={"inputs": {**surface.inputs, "item_id": item}})
    assert teacher_parts(replace(data_of(*logits_of(1, 1, 1))), without) == ()
