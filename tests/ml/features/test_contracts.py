"""What feature tables and examples must have follows from declarations alone."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from deploy.cli.main import app
from ml.features.contracts import Contract, ContractError, by_type, contracts, faults
from ml.features.tables import feature_tables
from ml.foundation.settings import EXAMPLES, Settings
from ml.surfaces.columns import Input
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface

APPS = sorted(path.parent for path in EXAMPLES.glob("*/surfaces"))


@pytest.fixture(scope="module")
def surfaces() -> Mapping[str, Surface]:
    return load_surfaces(Settings())


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
def test_every_table_has_its_keys_and_examples_have_every_feature_input_and_label(app: Path) -> None:
    settings = Settings(app=app, surfaces_dir=app / "surfaces")
    surfaces, tables = load_surfaces(settings), feature_tables(settings)
    declared = contracts(settings, surfaces)
    assert declared.keys() == {*tables, *(f"examples_{name}" for name in surfaces)}
    for name, table in tables.items():
        keys = {"day": "date", **dict.fromkeys(table.entity, "integer")}
        assert {key: declared[name][key] for key in keys} == keys
    for name, surface in surfaces.items():
        examples = declared[f"examples_{name}"]
        assert {column.alias for table in tables.values() for column in table.columns} <= examples.keys()
        assert all(examples[task.label] == "number" for task in surface.tasks.values())
        assert (examples["ts"], examples["session_id"]) == ("timestamp", "integer") and "surface" not in examples
        for column, spec in surface.inputs.items():
            kind = "integer" if spec.dtype == "int64" else "number"
            assert examples[column].startswith(kind) and examples[column].endswith("[]") is bool(spec.shape), column


def test_the_command_prints_what_tables_must_have_as_yaml_by_type_and_as_json_by_column(
    surfaces: Mapping[str, Surface],
) -> None:
    declared = contracts(Settings(), surfaces)
    printed, as_json = (CliRunner().invoke(app, ["columns", *more]).stdout for more in ([], ["--json"]))
    assert json.loads(as_json) == declared
    assert yaml.safe_load(printed) == {table: dict(by_type(columns)) for table, columns in declared.items()}


def test_a_column_is_the_narrowest_that_its_readers_want(surfaces: Mapping[str, Surface]) -> None:
    read = with_input(surfaces, "radio", "shown", "category", "feat_item.impressions")
    assert contracts(Settings(), surfaces)["feat_item"]["impressions"] == "number"
    declared = contracts(Settings(), read)
    assert declared["feat_item"]["impressions"] == declared["examples_homepage"]["item_impressions"] == "integer"
    assert contracts(Settings(), surfaces)["feat_creator"]["items"] == "any"


@pytest.mark.parametrize(
    ("kind", "source", "reason"),
    [
        ("vector", "feat_item.ctr", r"feat_item\.ctr is number for input item_ctr of surface homepage, number\[\] for"),
        ("number", "feat_item.day", r"feat_item\.day is date for its table, number for input odd of surface radio"),
        ("number", "feat_itme.ctr", "odd of surface radio reads .*no feature table 'feat_itme'; did you mean 'feat_i"),
    ],
)
def test_readers_that_exclude_each_other_are_named(
    surfaces: Mapping[str, Surface], kind: str, source: str, reason: str
) -> None:
    with pytest.raises(ContractError, match=reason):
        contracts(Settings(), with_input(surfaces, "radio", "odd", kind, source))


def test_a_type_takes_what_its_readers_can_use_and_nothing_else() -> None:
    held = {"a": "INTEGER", "b": "DECIMAL(18,3)", "c": "FLOAT[8]", "d": "BIGINT[]", "e": "BOOLEAN", "f": "TIMESTAMP_NS"}
    good: Contract = {"a": "integer", "b": "number", "c": "number[]", "d": "integer[]", "e": "number", "f": "timestamp"}
    assert not list(faults(good, held)) and not list(faults({"a": "number", "d": "number[]", "f": "any"}, held))
    bad: Contract = {"a": "integer[]", "b": "integer", "c": "number", "d": "integer", "f": "date", "g": "any"}
    told = " ".join(faults(bad, held))
    assert all(f"column {name} is {held[name]}, declared as {bad[name]}" in told for name in "abcdf")
    assert "it has no column g, declared as any" in told


def with_input(surfaces: Mapping[str, Surface], surface: str, name: str, kind: str, source: str) -> dict[str, Surface]:
    """Return the surfaces with one more daily input in one of them."""
    spec = Input.model_validate({"kind": "daily", "type": kind, "from": source, "embedding": 2, "length": 2})
    changed = surfaces[surface].model_copy(update={"inputs": {**surfaces[surface].inputs, name: spec}})
    return {**surfaces, surface: changed}
