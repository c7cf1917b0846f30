"""Conditions and names: what a surface's YAML puts into queries is an expression over columns, and no more."""

from pathlib import Path

import pytest
import yaml

from ml.surfaces.condition import ConditionError, condition
from ml.surfaces.files import load_surface
from ml.surfaces.keys import SpecError
from tests.checks.conftest import SPEC


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("item_age_days <= 7", '"item_age_days" <= 7'),
        ("a in (1, 2) and not b between 0 and .5", '"a" IN (1, 2) AND NOT "b" BETWEEN 0 AND 0.5'),
        ("a is null or coalesce(b, 0) % 2 = 1", '"a" IS NULL OR COALESCE("b", 0) % 2 = 1'),
        ("len(session_outcomes) > 2 -- and nothing else", 'LENGTH("session_outcomes") > 2'),
        ("case when a > 1 then b else c end = 'x''y'", None),
        ("(a) + (b) > 1", '("a") + ("b") > 1'),
    ],
)
def test_an_expression_over_columns_is_rendered_with_its_columns_quoted(text: str, sql: str | None) -> None:
    stated = condition(text)
    assert sql is None or stated.sql == sql
    assert stated.columns and "--" not in stated.sql


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "read_text('/etc/passwd') is not null",
        "exists(select 1 from read_csv('http://example.com/x.csv'))",
        "a in (select exposure_id from lake.ml.predictions_tiny)",
        "a in (from 'http://example.com/x.parquet')",
        "a = (select max(label_ctr) from lake.features.examples_tiny)",
        "lake.ml.predictions_tiny.score > 0",
        "a > 0; drop table lake.ml.predictions_tiny",
        "a > 0) as x, (b",
        "1) from (values (1)) t(x) where (true",
        "true) union select (1",
        "getenv('HOME') = a",
        "current_setting('threads') = a",
        "random() < a",
        "a > now()",
        "count(*) over () > a",
        "sum(a) > 1",
        "columns(*) > 1",
        "* ",
        "a as b",
        "a::blob is null",
        "a ~ '(x+x+)+y'",
        "repeat('x', 1000000000) = a",
        "$1 = a",
        "? = a",
        "a > 1 or",
        "",
        "true",
        "1 = 1",
        "(" * 200 + "a" + ")" * 200,
        "not " * 120 + "a",
        "a > 0 " + "or a > 0 " * 60,
        "a[1] = b",
        "list_transform(a, lambda x: x + 1) = b",
        "{'x': a} = b",
        "nextval('s') = a",
        "query('select 1') = a",
    ],
)
def test_anything_else_in_a_condition_is_refused_in_the_yaml_by_file_key_and_text(text: str, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(SPEC | {"slices": {"evil": text}}))
    if text.startswith(("(((", "not not")):  # deep, but nothing else: it may pass, and must not end the process
        condition_or_refusal(text)
        return
    with pytest.raises(SpecError) as refused:
        load_surface(file)
    assert str(file) in str(refused.value) and "slices.evil" in str(refused.value)


def condition_or_refusal(text: str) -> None:
    try:
        condition(text)
    except ConditionError:
        return


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("tasks", "ctr", "label"), "(select max(exposure_id) from lake.ml.predictions_tiny)"),
        (("tasks", "ctr", "label"), "label_ctr::double, 1 as x"),
        (("inputs", "item_ctr", "from"), "feat_item.ctr) or (1=1"),
        (("inputs", "item_ctr", "from"), "lake.feat_item.ctr"),
        (("slices",), {"a b": "item_age_days < 1"}),
        (("labels",), {"x') }}": 1}),
        (("labels",), {"x": float("inf")}),
        (("gate", "quality"), {}),
        (("gate", "quality"), {"trail": {"margin": 0.1, "min": 0}}),
        *(
            (("gate", "quality", "ctr", key), value)
            for key in ("margin", "min", "reference_margin")
            for value in (float("inf"), float("nan"), 1e9)
        ),
        (("gate", "quality", "ctr", "margin"), -0.1),
        (("gate", "quality", "ctr", "margin"), 0),
        (("gate", "quality", "ctr", "margin"), "inf"),
        (("gate", "quality", "ctr", "min"), float("-inf")),
        (("gate", "slices", "margin_factor"), float("inf")),
        (("gate", "calibration", "max_ece"), float("inf")),
        (("gate", "calibration", "predicted_over_observed"), [float("-inf"), float("inf")]),
        (("gate", "calibration", "predicted_over_observed"), [2, 0.5]),
        (("gate", "data", "label_rate", "ctr"), [-1, 2]),
        (("gate", "onnx", "tolerance"), float("inf")),
        (("gate", "onnx", "tolerance"), 1e6),
        (("gate", "onnx", "max_megabytes"), float("inf")),
        (("gate", "onnx", "max_batch"), 10**9),
        (("gate", "serving"), {"max_ready_s": float("inf")}),
        (("gate", "shift"), {"max_psi": float("inf")}),
        (("gate", "soft_labels", "rescore_tolerance"), float("nan")),
        (("training", "learning_rate"), float("nan")),
        (("inputs", "item_ctr", "default"), float("nan")),
    ],
)
def test_a_threshold_that_is_none_and_a_name_that_is_more_are_refused_by_file_key_and_value(
    tmp_path: Path, where: tuple[str, ...], value: object
) -> None:
    spec = yaml.safe_load(yaml.safe_dump(SPEC))
    place = spec
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(spec))
    with pytest.raises(SpecError) as refused:
        load_surface(file)
    told = str(refused.value)
    assert str(file) in told
    assert all(str(key) in told for key in where)
