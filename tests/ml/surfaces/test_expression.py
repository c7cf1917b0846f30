import numpy as np
import pytest

from ml.surfaces.expression import ExpressionError, parse

TASKS = ("ctr", "trail")


def test_the_homepage_score_is_what_the_formula_says():
    score = parse("sigmoid(ctr) * exp(clip(trail - 5, -2, 3))", TASKS)
    ctr, trail = np.array([-1.0, 0.0, 800.0]), np.array([5.5, 0.0, 100.0])
    expected = 1 / (1 + np.exp(-ctr)) * np.exp(np.clip(trail - 5, -2, 3))
    np.testing.assert_allclose(score({"ctr": ctr, "trail": trail}), expected)
    assert score.names == {"ctr", "trail"}


def test_every_operator_and_function_is_evaluated():
    value = parse("-ctr + 2 * log1p(trail) / 4 - (+1)", TASKS)({"ctr": np.array([3.0]), "trail": np.array([1.0])})
    np.testing.assert_allclose(value, -3 + 2 * np.log1p(1) / 4 - 1)


def test_torch_and_numpy_agree():
    import torch

    from ml.students.network import TORCH

    score = parse("sigmoid(ctr) * exp(clip(trail - 5, -2, 3)) + log1p(exp(ctr))", TASKS)
    values = {name: np.random.default_rng(0).normal(size=50).astype(np.float32) for name in TASKS}
    found = score({name: torch.from_numpy(v) for name, v in values.items()}, TORCH)
    np.testing.assert_allclose(found.numpy(), score(values), rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("__import__('os').system('true')", "not allowed|arguments"),
        ("ctr.real", "not allowed"),
        ("ctr ** 2", "not allowed"),
        ("ctr if ctr else trail", "not allowed"),
        ("[ctr]", "not allowed"),
        ("'ctr' * ctr", "not allowed"),
        ("True * ctr", "not allowed"),
        ("exp(x=ctr)", "not allowed"),
        ("sigmoid(clicks)", "'clicks' is no task"),
        ("sigmoid(ctr, trail)", "2 arguments"),
        ("tanh(ctr)", "known functions"),
        ("exp(2) * ctr", "takes a term with a task first"),
        ("clip(ctr, 0, trail)", "takes a term with a task first"),
        ("1 + 2", "names no task"),
        ("ctr +", "cannot be parsed"),
        ("", "cannot be parsed"),
        ("ctr + " * 200 + "ctr", "longer than"),
    ],
)
def test_anything_else_is_refused_with_the_reason(text: str, reason: str):
    with pytest.raises(ExpressionError, match=reason):
        parse(text, TASKS)


def test_a_surface_refuses_a_score_over_a_task_that_it_lacks(tmp_path):
    from ml.foundation.settings import EXAMPLES
    from ml.surfaces.files import load_surface
    from ml.surfaces.keys import SpecError

    path = tmp_path / "x.yaml"
    path.write_text(f"extends: {EXAMPLES}/simulator/surfaces/radio.yaml\nrank_by: sigmoid(ctr)\n", encoding="utf-8")
    with pytest.raises(SpecError, match="'ctr' is no task"):
        load_surface(path)
