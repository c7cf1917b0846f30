"""Bounded tables of ids: frequent ids exact, rarer ones by a hash, unseen ones unknown or by the hash."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ml.students.preprocessing import Preprocessing
from ml.students.vocabulary import hash_of
from ml.surfaces.columns import Input

UNSEEN = [-1, 2**63 - 1, -(2**63), 987_654_321]
LIMITS = np.iinfo(np.int64)


def spec(**fields: object) -> Input:
    return Input.model_validate({"kind": "request", "type": "id", "embedding": 4} | fields)


def fit(inputs: dict[str, Input], **columns: object) -> Preprocessing:
    return Preprocessing.fit(inputs, {name: torch.as_tensor(values) for name, values in columns.items()})


def rows_of(pre: Preprocessing, ids: list[int]) -> list[int]:
    return pre.rows({"item": torch.tensor(ids)})[:, 0].tolist()


@pytest.mark.parametrize("unseen", ["unknown", "bucket"])
def test_frequent_ids_are_exact_rare_ones_share_and_unseen_ones_do_as_declared(unseen: str) -> None:
    table = {"min_count": 2, "max_ids": 3, "hash_buckets": 5, "unseen": unseen}
    seen = [7] * 4 + [8] * 3 + [3] * 2 + [9] * 2 + [1]  # 9 is as frequent as 3, and one too many
    pre = fit({"item": spec(id_table=table)}, item=seen)
    assert pre.sizes == {"item": 9} and pre.known("item").tolist() == [3, 7, 8]
    assert rows_of(pre, [3, 7, 8]) == [1, 2, 3]
    assert rows_of(pre, [9, 1]) == [4 + int(h) for h in hash_of(np.array([9, 1])) % 5]
    shared = [4 + int(h) for h in hash_of(np.array(UNSEEN)) % 5]
    assert rows_of(pre, UNSEEN) == (shared if unseen == "bucket" else [0] * 4)
    assert pre.sharing("item").tolist() == ([] if unseen == "bucket" else [1, 9])
    rows = pre.rows({"item": torch.tensor([3, 9, UNSEEN[0]])})
    assert pre.kinds(rows)[:, 0].tolist() == [1, 2, 2 if unseen == "bucket" else 0]


def test_rare_ids_are_unknown_without_buckets() -> None:
    pre = fit({"item": spec(id_table={"max_ids": 1})}, item=[5, 5, 6])
    assert rows_of(pre, [5, 6]) == [1, 0] and pre.sizes == {"item": 2}


def test_what_a_file_holds_grows_with_what_is_kept() -> None:
    seen = np.random.default_rng(0).integers(2**62, size=5000)
    bounds = {"max_ids": 50, "hash_buckets": 10, "unseen": "bucket"}
    pre = fit({"item": spec(id_table=bounds)}, item=seen)
    assert pre.sizes == {"item": 61} and sum(buffer.numel() for buffer in pre.buffers()) < 500


def test_ids_count_over_all_inputs_of_a_vocabulary_and_others_are_as_without_bounds() -> None:
    inputs = {
        "seed": spec(vocabulary="item"),
        "item": spec(id_table={"min_count": 2, "hash_buckets": 2}),
        "user": spec(),
    }
    pre = fit(inputs, item=[5, 6, 7], seed=[5, 6, 9], user=[1, 2, 2])
    rows = pre.rows({name: torch.tensor([5, 7, 4]) for name in inputs})
    assert rows[0].tolist() == [1, 1, 0] and rows[2].tolist() == [0, 0, 0]
    assert rows[1, 0] == rows[1, 1] and rows[1, 0] >= 3
    assert pre.rows({name: torch.tensor([2]) for name in inputs})[0, 2] == 2


@pytest.mark.slow
@given(
    seen=st.lists(st.integers(LIMITS.min, LIMITS.max) | st.integers(0, 9), min_size=1, max_size=60),
    asked=st.lists(st.integers(LIMITS.min, LIMITS.max), max_size=9),
    count=st.integers(1, 3),
    most=st.integers(1, 9),
    buckets=st.integers(0, 4),
    unseen=st.sampled_from(["unknown", "bucket"]),
)
def test_a_restored_table_finds_every_id_where_it_was(
    seen: list[int], asked: list[int], count: int, most: int, buckets: int, unseen: str
) -> None:
    table = {"min_count": count, "max_ids": most, "hash_buckets": buckets, "unseen": unseen if buckets else "unknown"}
    inputs = {"item": spec(id_table=table), "other": spec()}
    pre = fit(inputs, item=seen, other=seen)
    restored = Preprocessing.restore(inputs, pre.state_dict())
    columns = {name: torch.tensor([*seen, *asked]) for name in inputs}
    rows = pre.rows(columns)
    assert torch.equal(rows, restored.rows(columns)) and torch.equal(pre.kinds(rows), restored.kinds(rows))
    assert restored.sizes == pre.sizes and int(rows[:, 0].max()) < pre.sizes["item"] <= most + buckets + 1
    assert (rows[: len(seen), 1] > 0).all()
    if buckets:
        assert (rows[: len(seen), 0] > 0).all()


def test_without_bounds_nothing_is_stored_or_said_of_them() -> None:
    plain = spec()
    assert "id_table" not in plain.model_dump(mode="json", by_alias=True)
    pre = fit({"item": plain}, item=[5, 6])
    assert not {"exact", "shared", "first_shared"} & {name for name, _ in pre.named_buffers()}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id_table": {"unseen": "bucket"}}, "needs `hash_buckets` above 0"),
        ({"id_table": {}, "vocabulary": "user"}, "not those of user's vocabulary"),
        ({"id_table": {}, "type": "number"}, "not those of type number"),
    ],
)
def test_bounds_that_nothing_could_follow_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec(**fields)
