"""The vocabulary is exact for any int64 id, in torch and in onnxruntime."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from ml.modules.vocabulary import IdLookup, build_table


@pytest.mark.parametrize("n", [0, 1, 24, 5_000])
def test_every_id_finds_its_row_and_others_find_row_zero(n: int) -> None:
    rng = np.random.default_rng(n)
    ids = np.unique(rng.integers(0, 2**63 - 1, size=n, dtype=np.int64))
    rng.shuffle(ids)
    lookup = IdLookup(ids)
    assert lookup.size == len(ids) + 1
    assert torch.equal(lookup(torch.from_numpy(ids)), torch.arange(1, len(ids) + 1))
    strangers = np.setdiff1d(rng.integers(0, 2**63 - 1, size=1_000, dtype=np.int64), ids)
    assert not lookup(torch.from_numpy(strangers)).any()


def test_small_negative_and_extreme_ids_are_exact() -> None:
    ids = np.array([0, 1, 23, -1, -5, 2**63 - 1, -(2**63)], dtype=np.int64)
    lookup = IdLookup(ids)
    assert lookup(torch.from_numpy(ids)).tolist() == list(range(1, 8))
    assert lookup(torch.tensor([[2, -2], [-1, 7]])).tolist() == [[0, 0], [4, 0]]


def test_table_stays_small() -> None:
    ids = np.random.default_rng(1).integers(0, 2**63 - 1, size=20_000, dtype=np.int64)
    keys, rows = build_table(ids)
    assert keys.shape == rows.shape
    assert keys.shape[1] == 8
    assert keys.size < 8 * len(ids)


def test_a_repeated_id_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="id 7 occurs 2 times"):
        build_table(np.array([1, 7, 3, 7]))


def test_onnxruntime_finds_the_same_rows() -> None:
    rng = np.random.default_rng(3)
    ids = np.unique(rng.integers(0, 2**63 - 1, size=500, dtype=np.int64))
    lookup = IdLookup(ids).eval()
    program = torch.onnx.export(
        lookup,
        (torch.from_numpy(ids[:2]),),
        dynamo=True,
        input_names=["ids"],
        output_names=["rows"],
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        verbose=False,
    )
    content = program.model_proto.SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    asked = np.concatenate([ids, ids + 1, np.array([0, -1, 2**63 - 1], dtype=np.int64)])
    (rows,) = session.run(["rows"], {"ids": asked})
    assert np.array_equal(rows, lookup(torch.from_numpy(asked)).numpy())
