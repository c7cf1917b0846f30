"""The dbt project against the contracts around it: landing, ids, surfaces, Dagster keys."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from assets.features import Translator
from assets.manifest import DbtManifest, described_columns
from assets.names import VECTORS
from ml.features.build import DbtError, build_arguments, dbt_environment, dbt_vars, run_dbt
from ml.features.projects import DBT_PROJECT_DIR, all_projects
from ml.features.tables import feature_tables
from ml.foundation.ids import id63
from ml.foundation.lake import Lake
from ml.foundation.settings import EXAMPLES, PROJECT_ROOT, Settings
from ml.surfaces.files import load_surface, load_surfaces
from ml.surfaces.scaffold import scaffold
from ml.teacher.vectors import VECTORS_SCHEMA

SURFACES = sorted(path for app in ("simulator", "kuairand") for path in (EXAMPLES / app / "surfaces").glob("*.yaml"))


DAILY = ("int_day", "int_user_day", "int_item_day", "int_user_item_day")


@pytest.fixture(scope="module")
def manifest(built: SimpleNamespace) -> dict[str, Any]:
    path = built.settings.home / "dbt" / "target" / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))


def models(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {n["name"]: n for n in manifest["nodes"].values() if n["resource_type"] == "model"}


def columns_of(manifest: dict[str, Any]) -> dict[str, dict[str, str]]:
    return described_columns(cast(DbtManifest, manifest), feature_tables(Settings()))


def is_table(node: dict[str, Any]) -> bool:
    """Return whether a model holds rows, and is no step of others."""
    return node["config"]["materialized"] != "ephemeral"


def test_dbt_unit_tests_pass(built: SimpleNamespace) -> None:
    results = run_dbt(built.settings, ["test", "--select", "test_type:unit"])
    assert len(results) >= 7
    assert {str(result.status) for result in results} == {"pass"}


def test_every_model_and_column_is_described_and_no_described_column_is_missing(
    built: SimpleNamespace, manifest: dict[str, Any]
) -> None:
    described = columns_of(manifest)
    with Lake(built.settings) as lake:
        for name, node in models(manifest).items():
            assert node["description"].startswith("One row per"), f"{name}: the description must state the grain"
            assert described[name] and all(described[name].values()), name
            if is_table(node):
                assert set(described[name]) == set(lake.columns(f"features.{name}")), name


def test_a_description_is_written_once() -> None:
    """What is said of columns of several tables is a doc block, so that they cannot come to differ."""
    texts = Counter[str]()
    for path in (path for folder in all_projects(Settings()).values() for path in (folder / "models").rglob("*.yml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        tables = [*content.get("models", []), *(t for s in content.get("sources", []) for t in s["tables"])]
        texts.update(column["description"] for table in tables for column in table.get("columns", []))
    assert [text for text, times in texts.items() if times > 1 and not text.startswith("{{ doc(")] == []


def test_examples_say_where_each_feature_comes_from(manifest: dict[str, Any]) -> None:
    described = columns_of(manifest)
    ctr = models(manifest)["feat_item"]["columns"]["ctr"]["description"]
    for surface in ("homepage", "radio"):
        assert described[f"examples_{surface}"]["item_ctr"] == f"{ctr} (`feat_item.ctr`)"


def test_a_count_of_the_day_is_its_name_its_sql_and_its_description(
    home: Callable[..., Settings], build_days: Callable[..., None], tmp_path: Path
) -> None:
    project = shutil.copytree(DBT_PROJECT_DIR, tmp_path / "dbt_project")
    for name, old, new in (
        ("macros/rates.sql", "'played_ms']", "'played_ms', 'likes']"),
        ("models/steps/daily_events.sql", "        0 as played_ms\n", "        0 as played_ms,\n        0 as likes\n"),
        (
            "models/steps/daily_events.sql",
            "        played_ms\n    from listens",
            "        played_ms,\n        (feedback is not distinct from 'like')::integer as likes\n    from listens",
        ),
    ):
        text = (project / name).read_text(encoding="utf-8")
        assert text.count(old) == 1
        (project / name).write_text(text.replace(old, new), encoding="utf-8")
    settings = home(3)
    days = settings.first_day, settings.first_day + timedelta(days=1)
    build_days(settings, *days, stages=("base",), project_dir=project)
    with Lake(settings) as lake:
        liked = "select count(*) from features.stg_listens where feedback = 'like' and ended_at < day + 1"
        counts = [
            lake.connection.execute(query).fetchall()
            for query in (liked, *(f"select sum(likes) from features.{name}" for name in DAILY))
        ]
    assert counts[0][0][0] > 5 and counts == [counts[0]] * len(counts)


def test_a_ranker_is_an_exposure_of_its_tables(manifest: dict[str, Any]) -> None:
    reads = {e["name"]: {n.split(".")[-1] for n in e["depends_on"]["nodes"]} for e in manifest["exposures"].values()}
    assert reads == {f"{s}_ranker": {f"examples_{s}", f"teacher_inputs_{s}"} for s in ("homepage", "radio")}


def test_sources_are_the_landing_contract_and_bound_to_the_landing_assets(manifest: dict[str, Any]) -> None:
    contract = yaml.safe_load((PROJECT_ROOT / "ml" / "landing" / "contract.yaml").read_text(encoding="utf-8"))["tables"]
    sources = {s["name"]: s for s in manifest["sources"].values() if s["source_name"] == "landing"}
    assert set(sources) == set(contract)
    for name, table in contract.items():
        assert set(sources[name]["columns"]) == {*table["columns"], "day"}, name
        assert sources[name]["config"]["meta"]["dagster"]["asset_key"] == ["landing", name]
    [vectors] = (s for s in manifest["sources"].values() if s["source_name"] != "landing")
    assert list(vectors["columns"]) == VECTORS_SCHEMA.names
    assert vectors["config"]["meta"]["dagster"]["asset_key"] == VECTORS.path


def test_each_model_has_a_key_test_a_stage_and_the_group_of_its_layer_or_surface(
    built: SimpleNamespace, manifest: dict[str, Any]
) -> None:
    tested = {
        n["attached_node"].split(".")[-1]: n["test_metadata"]["kwargs"]["columns"]
        for n in manifest["nodes"].values()
        if n["resource_type"] == "test" and n["test_metadata"]["name"] == "key"
    }
    for name, table in feature_tables(Settings()).items():
        assert tested[name] == ["day", *table.entity], f"{name} is about one row per day and entity"
    for name, node in models(manifest).items():
        if not is_table(node):
            continue
        assert name in tested, f"{name} has no key test"
        assert set(node["tags"]) & {"base", "ranking"}, name
    columns = columns_of(manifest)
    translator = Translator(
        built.settings.feature_window_days, load_surfaces(built.settings), columns, all_projects(built.settings), {}
    )
    specs = {
        name: translator.get_asset_spec(manifest, node["unique_id"], None)
        for name, node in models(manifest).items()
        if is_table(node)
    }
    groups = {"stg": "staging", "int": "intermediate", "feat": "features", "source": "source"}
    for name, spec in specs.items():
        layer, surface = groups.get(name.split("_")[0]), name.split("_")[-1]
        assert spec.group_name == (layer or surface), name
    for surface in ("homepage", "radio"):
        for kind in ("examples", "teacher_inputs"):
            assert models(manifest)[f"{kind}_{surface}"]["config"]["meta"]["dagster"]["asset_key"] == [surface, kind]


def test_staging_hashes_ids_as_python_does(built: SimpleNamespace) -> None:
    with Lake(built.settings) as lake:
        landed = lake.sql("select distinct user_id, item_id, exposure_id from landing.exposures").to_pylist()
        staged = lake.sql("select distinct user_id, item_id, exposure_id from features.stg_exposures").to_pylist()
    assert {tuple(id63(v) for v in row.values()) for row in landed} == {tuple(row.values()) for row in staged}


def test_staging_keeps_the_landed_id_beside_each_hash_and_later_the_teacher_alone_reads_it(
    built: SimpleNamespace, manifest: dict[str, Any]
) -> None:
    kept = 0
    with Lake(built.settings) as lake:
        for name in (name for name, node in models(manifest).items() if is_table(node)):
            columns = lake.columns(f"features.{name}")
            landed = {column for column in columns if column.startswith("landed_")}
            if not name.startswith("stg_"):
                assert (landed >= {"landed_user_id", "landed_item_id"}) is name.startswith("teacher_inputs_"), name
                assert not landed or name.startswith("teacher_inputs_"), name
                continue
            hashed = {column for column, kind in columns.items() if column.endswith("_id") and kind == "BIGINT"}
            assert landed == {f"landed_{column}" for column in hashed}, name
            pairs = lake.sql(f"select {', '.join([*sorted(hashed), *sorted(landed)])} from features.{name}").to_pydict()
            for column in hashed:
                assert [None if v is None else id63(v) for v in pairs[f"landed_{column}"]] == pairs[column], name
                kept += len(pairs[column])
    assert kept > 10_000


@pytest.mark.parametrize("path", SURFACES, ids=lambda p: f"{p.parents[1].name}/{p.stem}")
def test_examples_have_every_input_and_label_and_daily_inputs_are_what_serving_reads(
    built: SimpleNamespace, path: Path
) -> None:
    surface = load_surface(path)
    tables = feature_tables(Settings())
    with Lake(built.settings) as lake:
        table = f"features.examples_{surface.name}"
        columns = lake.columns(table)
        assert {*surface.inputs, *(task.label for task in surface.tasks.values())} <= set(columns)
        for name, spec in surface.inputs.items():
            if spec.source is None:
                continue
            feature_table, column = spec.source.split(".")
            condition = " and ".join(f"e.{k} = f.{k}" for k in ["day", *tables[feature_table].entity])
            default = tables[feature_table].defaults.get(column, "null")
            (different,) = lake.connection.execute(
                f"select count(*) from {table} as e left join features.{feature_table} as f on {condition} "
                f"where e.{name} is distinct from coalesce(f.{column}, {default})"
            ).fetchall()[0]
            assert different == 0, f"{name} is not {spec.source}"


def test_students_never_see_the_sister_platform(built: SimpleNamespace, manifest: dict[str, Any]) -> None:
    sisters = {"stg_source_impressions", "stg_source_user_profiles", "stg_source_item_profiles", "stg_teacher_scores"}
    parents = {name: {p.split(".")[-1] for p in node["depends_on"]["nodes"]} for name, node in models(manifest).items()}

    def ancestors(name: str) -> set[str]:
        direct = parents.get(name, set())
        return direct | {a for parent in direct for a in ancestors(parent)}

    with Lake(built.settings) as lake:
        for name in (n for n in parents if n.startswith("examples_")):
            assert not ancestors(name) & sisters
            assert not [c for c in lake.columns(f"features.{name}") if c.startswith("source_")]
    assert ancestors("teacher_inputs_homepage") & sisters


def test_labels_are_rates_and_seconds_that_happen(built: SimpleNamespace) -> None:
    with Lake(built.settings) as lake:
        row = lake.connection.execute(
            "select avg(label_ctr), count(label_trail), avg(label_discovery), count(*), "
            "count(*) filter (where label_trail is null and label_ctr = 1) from features.examples_homepage"
        ).fetchall()[0]
        assert 0.05 < row[0] < 0.3 and row[1] > 50 and 0 < row[2] < row[0] and row[3] > 1000 and row[4] == 0
        sessions, engaged = lake.connection.execute(
            "select count(*) filter (where session_outcomes[5] > 0), avg(label_engagement) from features.examples_radio"
        ).fetchall()[0]
        assert sessions > 10 and 0.2 < engaged < 0.8


def test_a_day_that_has_become_empty_becomes_empty(
    home: Callable[..., Settings], build_days: Callable[..., None]
) -> None:
    settings = home(2)
    first, second = settings.first_day, settings.first_day + timedelta(days=1)
    build_days(settings, first, second, stages=("base",))
    with Lake(settings) as lake:
        count = "select count(*) filter (where day = ?), count(*) filter (where day = ?) from features."
        before = lake.connection.execute(count + "stg_listens", [first, second]).fetchall()[0]
        lake.connection.execute("delete from landing.listens where day = ?", [second])
        lake.connection.execute("delete from landing.exposures where day = ?", [second])
    build_days(settings, second, second, stages=("base",))
    with Lake(settings) as lake:
        assert lake.connection.execute(count + "stg_listens", [first, second]).fetchall()[0] == (before[0], 0)
        assert lake.connection.execute(count + "int_user_day", [first, second]).fetchall()[0][1] == 0
        assert lake.connection.execute(count + "int_day", [first, second]).fetchall()[0] == (1, 1)
        lake.connection.execute("delete from features.int_day where day = ?", [first])
    with pytest.raises(DbtError, match=f"feat_item.*needs the base tables of {first}, which are not built"):
        build_days(settings, second, second, stages=("ranking",))


def test_a_surface_scaffolded_from_the_templates_builds_and_passes_its_tests(
    home: Callable[..., Settings], build_days: Callable[..., None], tmp_path: Path
) -> None:
    app = tmp_path / "my-app"
    scaffold("podcasts", app)
    settings = home(3).model_copy(update={"app": app, "surfaces_dir": app / "surfaces"})
    files = {path: path.read_bytes() for path in app.rglob("*") if path.is_file()}
    ours = sorted(DBT_PROJECT_DIR.rglob("*"))
    surface = load_surfaces(settings)["podcasts"]
    with Lake(settings) as lake:
        lake.connection.execute("update landing.exposures set surface = 'podcasts' where surface = 'radio'")
    first = settings.first_day
    build_days(settings, first, first + timedelta(days=2), tests=True)
    with Lake(settings) as lake:
        assert set(surface.inputs) <= set(lake.columns("features.examples_podcasts"))
        rate, rows = lake.connection.execute(
            "select avg(label_ctr), count(*) from features.examples_podcasts"
        ).fetchall()[0]
        assert 0.5 < rate < 0.95 and rows > 200
        assert not lake.table_exists("features.examples_homepage")
    assert {path: path.read_bytes() for path in app.rglob("*") if path.is_file()} == files
    assert sorted(DBT_PROJECT_DIR.rglob("*")) == ours


def test_variables_carry_window_and_labels_and_refuse_an_empty_range(built: SimpleNamespace) -> None:
    settings, (first, *_, last) = built.settings, built.days
    surfaces = load_surfaces(settings)
    values = dbt_vars(settings, surfaces, first, last)
    assert values["labels"]["homepage"] == {"trail_max_hours": 6, "discovery_trail_bound": 3.4}
    assert (values["from_day"], values["to_day"], values["feature_window_days"]) == (str(first), str(last), 3)
    with pytest.raises(ValueError, match="lies before"):
        dbt_vars(settings, surfaces, last, first)
    radio_only = {"radio": surfaces["radio"]}
    assert "fqn:surfaces.homepage" in build_arguments(settings, radio_only, ["ranking"], first, last)


def test_our_project_knows_no_surface_of_an_app_and_the_defaults_of_settings(built: SimpleNamespace) -> None:
    project = yaml.safe_load((DBT_PROJECT_DIR / "dbt_project.yml").read_text(encoding="utf-8"))
    assert project["vars"]["labels"] == {}
    for name in ("feature_window_days", "smoothing_impressions", "smoothing_plays"):
        assert project["vars"][name] == Settings.model_fields[name].default
    apps = [folder.parent for folder in EXAMPLES.glob("*/surfaces")]
    names = {name for app in apps for name in load_surfaces(Settings(home=built.settings.home, app=app))}
    assert {"homepage", "radio", "suggestions"} <= names
    for path in (DBT_PROJECT_DIR / "dbt_project.yml", *DBT_PROJECT_DIR.rglob("*.sql")):
        assert not names & set(re.findall(r"\w+", path.read_text(encoding="utf-8"))), path


def test_dbt_writes_only_into_the_home(built: SimpleNamespace, tmp_path: Path) -> None:
    settings, day = built.settings, built.days[2]
    environment = dbt_environment(settings)
    spill = json.loads(environment["CROSSFADE_DUCKDB_OPTIONS"])["temp_directory"]
    for path in (environment["DBT_TARGET_PATH"], environment["DBT_LOG_PATH"], spill):
        assert Path(path).is_relative_to(settings.home)
    left_by_others = shutil.ignore_patterns("target", "logs", ".user.yml")
    project = shutil.copytree(DBT_PROJECT_DIR, tmp_path / "project", ignore=left_by_others)
    before = sorted(project.rglob("*"))
    variables = json.dumps(dbt_vars(settings, load_surfaces(settings), day, day))
    run_dbt(settings, ["run", "--select", "stg_exposures", "--vars", variables], project_dir=project)
    assert sorted(project.rglob("*")) == before
