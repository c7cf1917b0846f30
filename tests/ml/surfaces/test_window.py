"""The evaluation window of a surface, and how far it may widen."""

import pytest
import yaml

from ml.foundation.settings import EXAMPLES
from ml.surfaces.spec import SpecError, Surface, load_surface

HOMEPAGE = EXAMPLES / "simulator" / "surfaces" / "homepage.yaml"


def _with(tmp_path, **window: object) -> Surface:
    path = tmp_path / "homepage.yaml"
    path.write_text(yaml.safe_dump({"extends": str(HOMEPAGE), "window": window}))
    return load_surface(path)


def test_an_evaluation_widens_to_a_fortnight_unless_the_surface_says_otherwise(tmp_path) -> None:
    assert load_surface(HOMEPAGE).looks == (3, 14)
    assert _with(tmp_path, e_max=5).looks == (3, 5)
    assert _with(tmp_path, e_max=3).looks == (3, 3)
    assert _with(tmp_path, eval_days=21).looks == (21, 21)


@pytest.mark.parametrize(
    ("e_max", "told"),
    [(2, "e_max: 2 is less than eval_days: 3"), (0, "greater than or equal to 1"), (91, "less than"), ("x", "integer")],
)
def test_an_end_of_widening_that_cannot_be_is_refused_by_its_key(tmp_path, e_max: object, told: str) -> None:
    with pytest.raises(SpecError, match=told) as refused:
        _with(tmp_path, e_max=e_max)
    assert "homepage.yaml" in str(refused.value) and "window" in str(refused.value)


def test_the_end_of_widening_changes_no_ranker(tmp_path) -> None:
    plain, set_so, longer = load_surface(HOMEPAGE), _with(tmp_path, e_max=14), _with(tmp_path, e_max=20)
    assert plain.ranker_digest == set_so.ranker_digest == longer.ranker_digest
    assert plain.digest == _with(tmp_path).digest, (
        "a surface without the key has the digest that it had before there was one"
    )
    assert plain.digest != longer.digest
