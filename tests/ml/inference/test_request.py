"""Values of a ranking request: what JSON has for a number, and what is refused."""

import pytest

from ml.inference.request import RequestError, _reader
from ml.surfaces.columns import Input

NUMBER = Input(kind="request", type="number", default=0.5)


@pytest.mark.parametrize(("value", "read"), [(True, 1.0), (False, 0.0), (3, 3.0), (None, 0.5)])
def test_a_truth_is_the_number_that_training_had_for_it(value: object, read: float) -> None:
    found = _reader("premium", NUMBER)(value)
    assert found == read and type(found) is not bool


@pytest.mark.parametrize("value", ["1", float("nan"), [1.0], 10**400])
def test_what_is_no_number_is_refused_with_its_name(value: object) -> None:
    with pytest.raises(RequestError, match="premium must be a finite number"):
        _reader("premium", NUMBER)(value)
