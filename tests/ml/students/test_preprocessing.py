import numpy as np
import pytest
import torch

from ml.students.preprocessing import Preprocessing
from ml.surfaces.columns import Input


def spec(**fields) -> Input:
    return Input.model_validate({"kind": "request"} | fields)


def fit(inputs: dict[str, Input], **columns) -> Preprocessing:
    return Preprocessing.fit(inputs, {name: torch.as_tensor(values) for name, values in columns.items()})


def test_known_ids_get_rows_of_their_own_and_unseen_ones_row_zero():
    seen = np.unique(np.random.default_rng(0).integers(1, 2**63 - 1, size=5000))
    pre = fit({"item": spec(type="id", embedding=4)}, item=np.append(seen, 0))
    rows = pre.rows({"item": torch.from_numpy(seen)})[:, 0]
    assert sorted(rows.tolist()) == list(range(2, 5002))  # row 1 is the id 0, "no id", which training has seen
    unseen = torch.tensor([-1, 2**63 - 1, -(2**63), 12345])
    assert pre.rows({"item": unseen})[:, 0].tolist() == [0, 0, 0, 0]
    assert pre.rows({"item": torch.tensor([0])}).item() == 1


def test_no_id_is_unknown_where_training_never_saw_it():
    pre = fit({"item": spec(type="id", embedding=4)}, item=[5, 6])
    assert pre.rows({"item": torch.tensor([0, 5])})[:, 0].tolist() == [0, 1]


def test_equal_numbers_in_two_vocabularies_are_not_confused():
    inputs = {"hour": spec(type="category", embedding=2), "genre": spec(type="category", embedding=2)}
    pre = fit(inputs, hour=[1, 2, 3], genre=[3, 4, 5])
    rows = pre.rows({"hour": torch.tensor([3, 4]), "genre": torch.tensor([3, 1])})
    assert rows.tolist() == [[3, 1], [0, 0]]


def test_inputs_with_one_vocabulary_share_rows():
    inputs = {"item": spec(type="id", embedding=4), "seed": spec(type="id", embedding=4, vocabulary="item")}
    pre = fit(inputs, item=[5, 6], seed=[6, 7])
    rows = pre.rows({"item": torch.tensor([5, 6, 7]), "seed": torch.tensor([5, 6, 7])})
    assert rows.tolist() == [[1, 1], [2, 2], [3, 3]]
    assert pre.sizes == {"item": 4}


@pytest.mark.parametrize("other", [{"embedding": 8}, {"embedding": 4, "vocabulary": "seed"}])
def test_a_vocabulary_that_cannot_be_shared_is_refused(other):
    inputs = {"item": spec(type="id", **other), "seed": spec(type="id", embedding=4, vocabulary="item")}
    with pytest.raises(ValueError, match="inputs"):
        Preprocessing(inputs, {"item": np.array([1])})


def test_numbers_are_defaulted_clipped_transformed_and_standardised():
    inputs = {"age": spec(type="number", default=9, transform="log1p"), "rate": spec(type="number", default=0.5)}
    rng = np.random.default_rng(0)
    age, rate = rng.exponential(20, 5000).astype(np.float32), rng.random(5000).astype(np.float32)
    pre = fit(inputs, age=age, rate=rate)
    _, dense = pre({"age": torch.from_numpy(age), "rate": torch.from_numpy(rate)})
    np.testing.assert_allclose(dense.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(dense.std(0), 1, atol=1e-3)
    odd = torch.tensor([float("nan"), 9, -5, 0, float("inf"), 3e38, float(age.max())])
    _, dense = pre({"age": odd, "rate": torch.full((7,), 0.5)})
    column = dense[:, 0].tolist()
    assert column[0] == column[1]
    assert column[2] == pytest.approx(column[3], abs=0.01)  # negatives meet the lower bound, almost 0
    assert column[4] == column[5] == column[6]
    clipped = np.clip(age, *np.quantile(age, [0.001, 0.999], method="nearest"))
    expected = (np.log1p(9) - np.log1p(clipped).mean()) / np.log1p(clipped).std()
    assert column[1] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("rare", [1, 3, 9])
def test_a_flag_of_fewer_than_one_row_in_a_thousand_reaches_the_ranker(rare):
    flag = torch.zeros(10_000)
    flag[:rare] = 1.0
    pre = fit({"flag": spec(type="number"), "absent": spec(type="number")}, flag=flag, absent=1 - flag)
    _, dense = pre({"flag": torch.tensor([0.0, 1.0]), "absent": torch.tensor([1.0, 0.0])})
    assert (dense[1] - dense[0]).abs().min() > 1


def test_a_constant_number_and_infinite_training_values_stay_finite():
    inputs = {"same": spec(type="number"), "wild": spec(type="number", transform="log1p")}
    wild = torch.tensor([float("inf"), -float("inf"), float("nan"), 1.0, 3e38])
    pre = fit(inputs, same=torch.full((5,), 3.0), wild=wild)
    _, dense = pre({"same": torch.tensor([3.0, 4.0]), "wild": torch.tensor([float("inf"), 0.0])})
    assert torch.isfinite(dense).all()
    assert dense[:, 0].tolist() == [0, 0]


def test_vectors_are_standardised_per_component_and_bounded():
    inputs = {"v": spec(type="vector", length=2)}
    values = torch.from_numpy((np.random.default_rng(0).normal(size=(4000, 2)) * [1, 5] + [3, -2]).astype(np.float32))
    pre = fit(inputs, v=values)
    _, dense = pre({"v": values})
    np.testing.assert_allclose(dense.std(0), 1, atol=1e-3)
    _, dense = pre({"v": torch.tensor([[float("nan"), 3e38], [float("inf"), -float("inf")]])})
    assert dense.abs().max() <= 10


def test_event_lists_become_shares_recency_and_fill():
    inputs = {"events": spec(type="event_list", length=4)}
    pre = Preprocessing(inputs, {})
    raw = pre.raw_dense({"events": torch.tensor([[3, 1, 3, 0], [0, 0, 0, 0], [2, 2, 2, 2]])})
    expected = [
        [1 / 3, 0, 2 / 3, 0.7, 0, 1 + 0.49, 0.75],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 1 + 0.7 + 0.49 + 0.343, 0, 1],
    ]
    np.testing.assert_allclose(raw.numpy(), expected, atol=1e-6)


def test_constants_come_back_from_a_state_dict():
    inputs = {
        "item": spec(type="id", embedding=4),
        "age": spec(type="number"),
        "seed": spec(type="id", embedding=4, vocabulary="item"),
        "type": spec(type="category", embedding=2),
    }
    columns = {"item": [9, 8, 7], "age": [1.0, 2.0, 3.0], "seed": [1, 2, 3], "type": [4, 4, 5]}
    pre = fit(inputs, **columns)
    state = {f"x.{name}": value for name, value in pre.state_dict().items()}
    restored = Preprocessing.restore(inputs, state, "x.")
    raw = {name: torch.as_tensor(values) for name, values in columns.items()}
    for found, want in zip(restored(raw), pre(raw), strict=True):
        assert torch.equal(found, want)
    assert sorted(restored.known("seed").tolist()) == [1, 2, 3, 7, 8, 9]
