import numpy as np
import pyarrow as pa
import pytest

from ml.students.columns import ColumnError, to_arrays
from ml.surfaces.columns import Input


def spec(**fields) -> Input:
    return Input.model_validate({"kind": "request"} | fields)


INPUTS = {
    "user_id": spec(type="id", embedding=4),
    "age": spec(type="number", default=365),
    "vector": spec(type="vector", length=3),
    "events": spec(type="event_list", length=3),
    "row": spec(type="number", kind="after_ranking", serving_value=7),
}


def table(**columns) -> pa.Table:
    base = {
        "user_id": pa.array([5, None], pa.int64()),
        "age": pa.array([1.5, None]),
        "vector": pa.array([[1, 2, 3], None], pa.list_(pa.float32())),
        "events": pa.array([[3, 1], None], pa.list_(pa.int64())),
        "row": pa.array([2, None], pa.int32()),
        "other": pa.array(["x", "y"]),
    }
    return pa.table(base | columns)


def test_nulls_take_the_default_and_every_column_has_its_dtype_and_shape():
    arrays = to_arrays(table(), INPUTS, "logged")
    expected = {
        "user_id": np.array([5, 0], np.int64),
        "age": np.array([1.5, 365], np.float32),
        "vector": np.array([[1, 2, 3], [0, 0, 0]], np.float32),
        "events": np.array([[3, 1, 0], [0, 0, 0]], np.int64),
        "row": np.array([2, 0], np.float32),
    }
    assert list(arrays) == list(INPUTS)
    for name, want in expected.items():
        assert arrays[name].dtype == want.dtype
        np.testing.assert_array_equal(arrays[name], want)


def test_after_ranking_inputs_take_their_serving_value_and_need_no_column():
    arrays = to_arrays(table().drop_columns(["row"]), INPUTS, "serving")
    np.testing.assert_array_equal(arrays["row"], np.array([7, 7], np.float32))


def test_a_longer_event_list_keeps_the_newest():
    events = pa.array([[1, 2, 3, 1, 1], []], pa.list_(pa.int32()))
    np.testing.assert_array_equal(to_arrays(table(events=events), INPUTS, "logged")["events"], [[1, 2, 3], [0, 0, 0]])


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 3)])
def test_vectors_come_in_any_arrow_list_type(kind: pa.DataType):
    vector = pa.array([[1, None, 3], None], kind)
    found = to_arrays(table(vector=vector), INPUTS, "logged")["vector"]
    np.testing.assert_array_equal(found, np.array([[1, 0, 3], [0, 0, 0]], np.float32))


def test_chunks_slices_and_batches_give_the_same_arrays():
    whole = pa.concat_tables([table(), table().slice(1), table()])
    expected = to_arrays(whole.combine_chunks(), INPUTS, "logged")
    batch = whole.combine_chunks().to_batches()[0].slice(1, 3)
    for name, array in to_arrays(whole, INPUTS, "logged").items():
        np.testing.assert_array_equal(array, expected[name])
    for name, array in to_arrays(batch, INPUTS, "logged").items():
        np.testing.assert_array_equal(array, expected[name][1:4])


def test_numbers_keep_what_float32_can_hold():
    age = pa.array([2**40 + 1, None], pa.int64())
    assert to_arrays(table(age=age), INPUTS, "logged")["age"].tolist() == [float(np.float32(2**40 + 1)), 365.0]
    assert np.isinf(to_arrays(table(age=pa.array([1e300, 0.0])), INPUTS, "logged")["age"][0])


def test_no_rows_give_empty_arrays():
    arrays = to_arrays(table().slice(0, 0), INPUTS, "logged")
    assert {name: array.shape for name, array in arrays.items()} == {
        "user_id": (0,), "age": (0,), "vector": (0, 3), "events": (0, 3), "row": (0,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"vector": pa.array([[1.0, 2.0], None])}, "'vector'.*length 2, not 3"),
        ({"user_id": pa.array(["a", "b"])}, "'user_id' of type string"),
        ({"age": pa.array([[1], [2]])}, "'age' of type list"),
    ],
)
def test_a_column_that_does_not_fit_is_named(columns, reason: str):
    with pytest.raises(ColumnError, match=reason):
        to_arrays(table(**columns), INPUTS, "logged")


def test_a_missing_column_is_named():
    with pytest.raises(ColumnError, match="'age' is missing"):
        to_arrays(table().drop_columns(["age"]), INPUTS, "logged")
