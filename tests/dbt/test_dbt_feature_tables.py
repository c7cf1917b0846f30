"""A feature table of the app is its SQL and its description: no line elsewhere names it."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import numpy as np
import pytest

from assets.features import build_features
from assets.manifest import PARSED, parse_project
from checks.guards.data import measure_features
from ml.features.build import DbtError, dbt_vars, run_dbt
from ml.features.tables import DeclarationError
from ml.foundation.lake import Lake
from ml.foundation.settings import EXAMPLES, Settings
from ml.inference.snapshot import FeatureSnapshot, publish
from ml.surfaces.columns import Input
from ml.surfaces.files import load_surfaces
from ml.surfaces.scaffold import TEMPLATES

USER = {
    "feat_user_likes.sql": """
select
    {{ from_day() }} as day,
    user_id,
    count(*) filter (where feedback = 'like') as likes,
    max(ts) as liked_at
from {{ ref('stg_listens') }}
where day < {{ from_day() }} and {{ built_days(before=3, after=-1) }}
group by user_id
""",
    "feat_user_likes.yml": """
models:
  - name: feat_user_likes
    description: One row per day and user who played something in the days before.
    config:
      meta: {entity: [user_id], as: user, default: {likes: -1}}
    data_tests:
      - key:
          arguments: {columns: [day, user_id]}
    columns:
      - {name: day, description: "{{ doc('day') }}"}
      - {name: user_id, description: User}
      - {name: likes, description: Likes in the days before}
      - {name: liked_at, description: When the user last played, config: {meta: {as: last_play}}}
""",
}
PAIR = {
    "feat_user_item.sql": """
select
    {{ from_day() }} as day,
    user_id,
    item_id,
    count(*) as seen
from {{ ref('stg_exposures') }}
where day < {{ from_day() }} and {{ built_days(before=3, after=-1) }}
group by user_id, item_id
""",
    "feat_user_item.yml": """
models:
  - name: feat_user_item
    description: One row per day, user and item that the user was shown in the days before.
    config:
      meta: {entity: [user_id, item_id], as: user_item, default: {seen: 0}}
    data_tests:
      - key:
          arguments: {columns: [day, user_id, item_id]}
    columns:
      - {name: day, description: "{{ doc('day') }}"}
      - {name: user_id, description: User}
      - {name: item_id, description: Item}
      - {name: seen, description: How often the user was shown the item}
""",
}


@pytest.fixture(scope="module")
def declared(
    home: Callable[..., Settings], build_days: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """A home whose last day is built for an app with two feature tables of its own."""
    app = tmp_path_factory.mktemp("app")
    shutil.copytree(EXAMPLES / "simulator" / "surfaces", app / "surfaces")
    (app / "packages.yml").write_text(f"packages: [{{local: {EXAMPLES / 'simulator'}}}]\n", encoding="utf-8")
    project = (TEMPLATES / "dbt_project.yml").read_text(encoding="utf-8").replace("__app__", "mine")
    (app / "dbt_project.yml").write_text(project, encoding="utf-8")
    (app / "models" / "features").mkdir(parents=True)
    for name, text in {**USER, **PAIR}.items():
        (app / "models" / "features" / name).write_text(text, encoding="utf-8")
    settings = home(3).model_copy(update={"app": app, "surfaces_dir": app / "surfaces"})
    first, day = settings.first_day, settings.first_day + timedelta(days=2)
    build_days(settings, first, day, stages=("base",))
    build_days(settings, day, day, stages=("ranking",), tests=True)
    return SimpleNamespace(settings=settings, day=day, app=app)


def test_examples_of_every_surface_hold_the_columns_of_a_declared_table(declared: SimpleNamespace) -> None:
    with Lake(declared.settings) as lake:
        for surface in load_surfaces(declared.settings):
            columns = lake.columns(f"features.examples_{surface}")
            assert {"user_likes", "last_play", "user_item_seen"} <= set(columns)
            rows, other, seen, likes = lake.connection.execute(
                f"""select count(*), count(*) filter (
                    where e.user_likes is distinct from coalesce(u.likes, -1) or e.last_play is distinct from u.liked_at
                    or e.user_item_seen is distinct from coalesce(p.seen, 0)
                ), count(*) filter (where e.user_item_seen > 0), count(*) filter (where e.user_likes > 0)
                from features.examples_{surface} as e
                left join features.feat_user_likes as u on u.day = e.day and u.user_id = e.user_id
                left join features.feat_user_item as p
                    on p.day = e.day and p.user_id = e.user_id and p.item_id = e.item_id
                where e.day = ?""",
                [declared.day],
            ).fetchall()[0]
            assert rows > 100 and other == 0 and seen > 10 and likes > 10


@pytest.mark.parametrize("users", ["one", "each"])
def test_serving_looks_up_what_the_examples_hold_and_the_tables_default_where_nothing_is_known(
    declared: SimpleNamespace, users: str
) -> None:
    inputs = {
        "user_likes": number("feat_user_likes.likes", default=5),
        "user_item_seen": number("feat_user_item.seen", default=7),
        "item_ctr": number("feat_item.ctr", default=0.25),
    }
    with Lake(declared.settings) as lake:
        published = publish(lake, declared.settings, load_surfaces(declared.settings), declared.day)
        assert {"feat_user_likes", "feat_user_item"} <= published.rows.keys()
        examples = lake.sql(
            f"select user_id, item_id, {', '.join(inputs)} from features.examples_homepage where day = ? "
            "order by user_id, item_id, exposure_id",
            [declared.day],
        ).to_pydict()
    bound = FeatureSnapshot.load(published.path).bind(inputs)
    user_ids, item_ids = np.array(examples["user_id"]), np.array(examples["item_id"])
    wanted = {"user_likes": -1, "user_item_seen": 0, "item_ctr": 0.25}
    if users == "one":
        user_ids = user_ids[:1]
    found, _ = bound.lookup(user_ids, item_ids)
    own = np.array(examples["user_id"]) == user_ids[0] if users == "one" else np.full(len(item_ids), True)
    for name, default in wanted.items():
        values = np.array([default if v is None else v for v in examples[name]], dtype=np.float32)
        assert found[name].dtype == np.float32 and (found[name][own] == values[own]).all(), name
    unknown, _ = bound.lookup(np.array([1]), np.array([1, 2]))
    assert {name: values.tolist() for name, values in unknown.items()} == {n: [d, d] for n, d in wanted.items()}


def test_a_snapshot_says_which_keys_and_defaults_its_tables_have(declared: SimpleNamespace) -> None:
    with Lake(declared.settings) as lake:
        path = publish(lake, declared.settings, load_surfaces(declared.settings), declared.day).path
    snapshot = FeatureSnapshot.load(path)
    assert snapshot.keys["feat_user_item"] == ["user_id", "item_id"] and snapshot.keys["feat_item"] == ["item_id"]
    assert snapshot.defaults["feat_user_likes"] == {"likes": -1} and snapshot.defaults["feat_item"] == {}


def test_the_gate_compares_the_examples_with_the_tables_of_the_app(declared: SimpleNamespace) -> None:
    """And finds a value that is not the table's."""
    surface = load_surfaces(declared.settings)["homepage"]
    inputs = {"user_likes": number("feat_user_likes.likes", default=0)}
    surface = surface.model_copy(update={"inputs": {**surface.inputs, **inputs}})
    with Lake(declared.settings) as lake:
        [day] = measure_features(lake, surface, [declared.day]) or []
        assert day["rows"] > 100 and day["other_values"] == 0
        lake.connection.begin()
        lake.connection.execute("update lake.features.feat_user_likes set likes = likes + 1")
        [day] = measure_features(lake, surface, [declared.day]) or []
        lake.connection.rollback()
    assert day["other_values"] > 100


def test_the_graph_builds_and_publishes_the_tables_of_the_app(declared: SimpleNamespace) -> None:
    settings: Settings = declared.settings
    parse_project(settings)
    _, ranking, snapshot = build_features(settings, load_surfaces(settings))
    mine = {dg.AssetKey(["features", name]) for name in ("feat_user_likes", "feat_user_item")}
    assert mine <= set(ranking.keys) and {ranking.specs_by_key[key].group_name for key in mine} == {"features"}
    assert mine <= set(snapshot.asset_deps[snapshot.key])
    likes = ranking.specs_by_key[dg.AssetKey(["homepage", "examples"])].metadata["dagster/column_schema"]
    assert "Likes in the days before (`feat_user_likes.likes`)" in {column.description for column in likes.columns}
    types = {column.name: column.type for column in likes.columns}
    assert (types["item_ctr"], types["session_outcomes"], types["user_likes"]) == ("number", "integer[]", "any")


def test_a_table_that_breaks_its_contract_is_refused_by_column_and_type_and_stays_as_it_was(
    declared: SimpleNamespace, tmp_path: Path
) -> None:
    parsed = parse_project(declared.settings).with_name(PARSED)
    home = shutil.copytree(declared.settings.home, tmp_path / "home")
    settings = declared.settings.model_copy(update={"home": home})
    surface = load_surfaces(settings)["radio"]
    inputs = {name: number(f"feat_user_likes.{name}", default=0) for name in ("likes", "liked_at", "mood")}
    surfaces = {"radio": surface.model_copy(update={"inputs": {**surface.inputs, **inputs}})}
    with Lake(settings) as lake:
        table, past = "lake.features.feat_user_likes", "select * replace (likes > 0 as likes)"
        lake.connection.execute(f"create or replace table {table} as {past} from {table}")
        before = lake.content_hash(table)
    variables = json.dumps(dbt_vars(settings, surfaces, declared.day, declared.day))
    with pytest.raises(DbtError) as refused:
        run_dbt(settings, ["run", "--select", "feat_user_likes", "--vars", variables], parsed=parsed)
    for told in (
        "feat_user_likes: ",
        "column likes is BIGINT, in the table BOOLEAN",
        "column liked_at is TIMESTAMP, declared as number",
        "no column mood, declared as number",
    ):
        assert told in str(refused.value)
    with Lake(settings) as lake:
        assert lake.content_hash(table) == before


def test_a_feature_table_that_no_stage_builds_is_refused(declared: SimpleNamespace, tmp_path: Path) -> None:
    app = shutil.copytree(declared.app, tmp_path / "app")
    project = (app / "dbt_project.yml").read_text(encoding="utf-8")
    (app / "dbt_project.yml").write_text(project.replace("    features:\n", "    others:\n"), encoding="utf-8")
    settings = declared.settings.model_copy(update={"app": app})
    parse_project(settings)
    with pytest.raises(DeclarationError, match=r"feat_user_likes.*: .*features: .*tags: \[ranking\].* of mine"):
        build_features(settings, load_surfaces(settings))


def number(source: str, *, default: float) -> Input:
    return Input.model_validate({"kind": "daily", "type": "number", "from": source, "default": default})
