"""The teacher's vectors as features: declared in one SQL line, of the days before, served as they were learnt from."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import numpy as np
import onnx
import pyarrow as pa
import pytest
import yaml

from checks.vectors import NONE, measure_vectors
from ml.features.build import dbt_vars, run_dbt
from ml.features.tables import VECTORS_TABLE, vector_tables
from ml.foundation.ids import id63
from ml.foundation.lake import Lake
from ml.foundation.settings import EXAMPLES, Settings
from ml.inference.snapshot import FeatureSnapshot, publish
from ml.operations.forget import _columns as columns_of_people
from ml.releases.manifest import vector_content
from ml.surfaces.columns import Input
from ml.surfaces.files import load_surfaces
from ml.surfaces.scaffold import TEMPLATES
from ml.surfaces.spec import Surface
from ml.teacher.contract import load_contract
from ml.teacher.vectors import embed_days
from ml.teacher.withdrawn import WithdrawnVectors, drop_withdrawn_vectors
from tests.support.known import present

GRAPH = """
<ir_version: 9, opset_import: ["" : 17]>
good (float[n] user_likes_7d, float[n, 8] history_embedding, float[n, 8] content_embedding)
    => (float[n] click, float[n, 8] person, float[n, 8] thing) {
    axis = Constant <value = int64[1] {1}> ()
    product = Mul (history_embedding, content_embedding)
    click = ReduceSum <keepdims = 0> (product, axis)
    column = Unsqueeze (user_likes_7d, axis)
    person = Add (history_embedding, column)
    thing = Sin (content_embedding)
}
"""
CONTRACT = {
    "name": "video",
    "version": "1",
    "trained_through": None,
    "source": "a test",
    "license": "none",
    "model": "model.onnx",
    "inputs": [
        {"name": "user_likes_7d", "dtype": "float32"},
        {"name": "history_embedding", "dtype": "float32", "shape": [8]},
        {"name": "content_embedding", "dtype": "float32", "shape": [8]},
    ],
    "outputs": [{"task": "click", "kind": "logit"}],
    "embeddings": [
        {"name": "person", "entity": "user_id", "inputs": ["user_likes_7d", "history_embedding"]},
        {"name": "thing", "entity": "item_id", "inputs": ["content_embedding"]},
    ],
}
SQL = "{{ teacher_vectors('%s_id', '%s') }}\n"
YML = """
models:
  - name: feat_teacher_%(entity)s
    description: One row per day and %(entity)s of whom the teacher had a vector in the days before.
    config:
      meta: {entity: [%(entity)s_id], as: teacher_%(entity)s, vectors: %(vectors)s, default: {known: 0}}
    data_tests:
      - key:
          arguments: {columns: [day, %(entity)s_id]}
    columns:
      - {name: day, description: "{{ doc('day') }}"}
      - {name: %(entity)s_id, description: Whom the vector is about}
      - {name: vector, description: The vector}
      - {name: known, description: 1 where there is one}
"""
INPUTS = {
    "teacher_user_vector": {"kind": "daily", "type": "vector", "length": 8, "from": "feat_teacher_user.vector"},
    "teacher_user_known": {"kind": "daily", "type": "number", "from": "feat_teacher_user.known"},
    "teacher_item_vector": {"kind": "daily", "type": "vector", "length": 8, "from": "feat_teacher_item.vector"},
}
FEATURES = ["feat_teacher_user", "feat_teacher_item"]


def write_app(app: Path) -> Path:
    shutil.copytree(EXAMPLES / "simulator" / "surfaces", app / "surfaces")
    (app / "packages.yml").write_text(f"packages: [{{local: {EXAMPLES / 'simulator'}}}]\n", encoding="utf-8")
    project = (TEMPLATES / "dbt_project.yml").read_text(encoding="utf-8").replace("__app__", "mine")
    (app / "dbt_project.yml").write_text(project, encoding="utf-8")
    (app / "models" / "features").mkdir(parents=True)
    for entity, vectors in (("user", "person"), ("item", "thing")):
        file = app / "models" / "features" / f"feat_teacher_{entity}"
        file.with_suffix(".sql").write_text(SQL % (entity, vectors), encoding="utf-8")
        file.with_suffix(".yml").write_text(YML % {"entity": entity, "vectors": vectors}, encoding="utf-8")
    (app / "teacher").mkdir()
    (app / "teacher" / "model.onnx").write_bytes(onnx.parser.parse_model(GRAPH).SerializeToString())
    (app / "teacher" / "contract.yaml").write_text(yaml.safe_dump(CONTRACT, sort_keys=False), encoding="utf-8")
    return app


@pytest.fixture(scope="module")
def world(
    home: Callable[..., Settings],
    build_days: Callable[..., None],
    parsed: Callable[[Settings], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> SimpleNamespace:
    """A home whose features of the fourth and fifth day were built after the vectors of the first four."""
    app = write_app(tmp_path_factory.mktemp("app"))
    settings = home(5).model_copy(
        update={"app": app, "surfaces_dir": app / "surfaces", "teacher": app / "teacher" / "contract.yaml"}
    )
    days = settings.days(settings.first_day, settings.first_day + timedelta(days=4))
    surfaces = load_surfaces(settings)

    def build(first: int, last: int, *models: str, tests: bool = False) -> None:
        variables = json.dumps(dbt_vars(settings, surfaces, days[first], days[last]))
        arguments = ["build" if tests else "run", "--select", *models, "--vars", variables]
        run_dbt(settings, arguments, parsed=parsed(settings))

    build_days(settings, days[0], days[-1], stages=("base",))
    # As `teacher_tables` and then `ranking_tables` build them: what the teacher is told, its vectors, what reads those.
    build(0, 3, "teacher_inputs_homepage", "teacher_inputs_radio")
    contract = load_contract(present(settings.teacher))
    with Lake(settings) as lake:
        report = embed_days(lake, settings, contract, surfaces, days[:4])
    rest = ["feat_user", "feat_item", "feat_creator", "feat_user_creator", "examples_homepage", "examples_radio"]
    build(3, 4, *rest, *FEATURES, tests=True)
    return SimpleNamespace(settings=settings, days=days, contract=contract, report=report, build=build)


def reading(settings: Settings) -> Surface:
    surface = load_surfaces(settings)["homepage"]
    return surface.model_copy(update={"inputs": {**surface.inputs, **inputs()}})


def inputs() -> dict[str, Input]:
    return {name: Input.model_validate(spec) for name, spec in INPUTS.items()}


def test_a_day_reads_the_latest_vector_of_the_days_before_and_who_has_none_has_the_default(
    world: SimpleNamespace,
) -> None:
    day = world.days[3]
    with Lake(world.settings) as lake:
        wrong, rows, older = lake.connection.execute(
            f"""with latest as (
                select user_id, arg_max(vector, day) as vector, max(day) as day from {VECTORS_TABLE}
                where embedding = 'person' and day < $day and day >= $day - 3 group by user_id
            )
            select count(*) filter (
                where f.vector is distinct from l.vector or f.vector_day is distinct from l.day or f.known <> 1
            ), count(*), count(*) filter (where f.age_days > 1)
            from (from features.feat_teacher_user where day = $day) as f full join latest as l using (user_id)""",
            {"day": day},
        ).fetchall()[0]
        assert wrong == 0 and rows > 30 and older > 0
        shown, with_vector, unlike, unknown = lake.connection.execute(
            """select count(*), count(e.teacher_user_vector), count(*) filter (
                where e.teacher_user_vector is distinct from f.vector
                or e.teacher_user_known is distinct from coalesce(f.known, 0)
            ), count(*) filter (where e.teacher_user_known = 0)
            from features.examples_homepage as e left join features.feat_teacher_user as f using (day, user_id)
            where day = ?""",
            [day],
        ).fetchall()[0]
    assert unlike == 0 and shown == with_vector + unknown and with_vector > shown / 2 and unknown > 0, (
        "not all are linked"
    )


def test_serving_looks_up_the_vectors_that_the_examples_hold(world: SimpleNamespace) -> None:
    settings, day = world.settings, world.days[4]
    surfaces = {"homepage": reading(settings)}
    with Lake(settings) as lake:
        published = publish(lake, settings, surfaces, day)
        rows = lake.sql(
            f"select user_id, item_id, {', '.join(INPUTS)} from features.examples_homepage where day = ?", [day]
        ).to_pydict()
    bound = FeatureSnapshot.load(published.path).bind(inputs())
    found, _ = bound.lookup(np.array(rows["user_id"]), np.array(rows["item_id"]))
    for name in ("teacher_user_vector", "teacher_item_vector"):
        wanted = np.array([v or [0.0] * 8 for v in rows[name]], dtype=np.float32)
        assert np.array_equal(found[name], wanted) and found[name].any(), name
    assert found["teacher_user_known"].tolist() == rows["teacher_user_known"]
    nobody, _ = bound.lookup(np.array([1]), np.array([1]))
    assert not nobody["teacher_user_vector"].any() and nobody["teacher_user_known"].tolist() == [0.0]


def test_the_gate_looks_at_each_vector_and_the_manifest_names_whose_they_are(world: SimpleNamespace) -> None:
    settings, day = world.settings, world.days[4]
    surface, table = reading(settings), vector_tables(settings)["feat_teacher_user"]

    def found(lake: Lake) -> dict[str, object]:
        [row] = measure_vectors(lake, surface, table, [day], world.contract, 8)
        return dict(row)

    spoilt = {
        "other_teacher": "contract_hash = 'another'",
        "non_finite": "vector = [1, 2, 3, 4, 5, 6, 7, 'nan'::float]",
        "wrong_length": "vector = [1]",
        "not_before": "vector_day = day",
        "too_old": "vector_day = day - 4",
    }
    with Lake(settings) as lake:
        sound = found(lake)
        assert sound["coverage"] > 0.5 and not any(sound[name] for name in NONE)  # type: ignore[operator]
        for name, change in spoilt.items():
            lake.connection.begin()
            lake.connection.execute(f"update lake.features.feat_teacher_user set {change} where day = '{day}'")
            assert found(lake)[name], name
            lake.connection.rollback()
        content = vector_content(lake, surface, [day])
    assert {(one.table, one.embedding, one.teacher, one.teacher_version) for one in content} == {
        ("feat_teacher_user", "person", "video", "1"),
        ("feat_teacher_item", "thing", "video", "1"),
    }
    assert all(one.contract_hash == world.contract.contract_hash and one.days[0].day == day for one in content)


def test_vectors_of_another_version_count_from_the_day_after_them_and_a_day_never_reads_its_own(
    world: SimpleNamespace, tmp_path: Path
) -> None:
    home = shutil.copytree(world.settings.home, tmp_path / "home")
    settings = world.settings.model_copy(update={"home": home})
    third, fourth = world.days[3:]
    with Lake(settings) as lake:
        before = lake.content_hashes("lake.features.feat_teacher_user", [third])
        lake.connection.execute(f"update lake.{VECTORS_TABLE} set contract_hash = 'new' where day = '{third}'")
    variables = json.dumps(dbt_vars(settings, load_surfaces(settings), third, fourth))
    run_dbt(settings, ["run", "--select", "feat_teacher_user", "--vars", variables])
    with Lake(settings) as lake:
        assert lake.content_hashes("lake.features.feat_teacher_user", [third]) == before
        query = "select distinct contract_hash, vector_day from features.feat_teacher_user where day = ?"
        assert lake.connection.execute(query, [fourth]).fetchall() == [("new", third)]


def test_a_link_that_is_withdrawn_takes_its_vectors_along_wherever_they_lie(
    world: SimpleNamespace, tmp_path: Path
) -> None:
    home = shutil.copytree(world.settings.home, tmp_path / "home")
    settings = world.settings.model_copy(update={"home": home})
    held = {
        VECTORS_TABLE: "user_id is not null",
        "features.feat_teacher_user": "true",
        "features.examples_homepage": "teacher_user_known = 1 and teacher_user_vector is not null",
        "features.examples_radio": "teacher_user_known = 1 and teacher_user_vector is not null",
    }
    with Lake(settings) as lake:

        def count(user: str) -> list[int]:
            return [
                lake.connection.execute(
                    f"select count(*) from lake.{table} where {where} and user_id {user}"
                ).fetchall()[0][0]
                for table, where in held.items()
            ]

        [(gone,)] = lake.connection.execute(
            f"select user_id from lake.{VECTORS_TABLE} join features.feat_teacher_user using (user_id) "
            "join features.examples_homepage using (user_id) group by 1 order by count(*) desc limit 1"
        ).fetchall()
        mine, others = count(f"= {gone}"), count(f"<> {gone}")
        assert all(mine[:3]) and drop_withdrawn_vectors(lake) == WithdrawnVectors(), "while everybody is linked"
        link = {"day": pa.array([world.days[4]], pa.date32()), "user_id": pa.array([gone], pa.int64())}
        lake.connection.register("_link", pa.table({**link, "source_user_id": pa.nulls(1, pa.int64())}))
        lake.connection.execute("insert into lake.features.stg_users by name select * from _link")
        dropped = drop_withdrawn_vectors(lake)
        assert (dropped.users, dropped.vectors, dropped.features) == (1, mine[0], mine[1])
        assert count(f"= {gone}") == [0, 0, 0, 0] and count(f"<> {gone}") == others
        assert drop_withdrawn_vectors(lake) == WithdrawnVectors(), "nothing is dropped twice"


def test_forgetting_reaches_the_vectors(world: SimpleNamespace) -> None:
    with Lake(world.settings) as lake:
        assert {VECTORS_TABLE, "features.feat_teacher_user"} <= columns_of_people(lake).keys()
        known = lake.connection.execute(f"select count(*) from {VECTORS_TABLE} where user_id = ?", [id63("u1")])
        assert known.fetchall()[0][0] > 0, "by the hash that `forget` deletes by"


def test_the_graph_makes_vectors_between_what_the_teacher_is_told_and_the_features(world: SimpleNamespace) -> None:
    from assets.manifest import parse_project
    from assets.progress import ProgressResource
    from deploy.definitions import build_definitions

    parse_project(world.settings)
    definitions = build_definitions(world.settings)
    graph = definitions.resolve_asset_graph()
    vectors, feature = dg.AssetKey("teacher_vectors"), dg.AssetKey(["features", "feat_teacher_user"])
    told = {dg.AssetKey([name, "teacher_inputs"]) for name in ("homepage", "radio")}
    assert told <= graph.get(vectors).parent_keys and vectors in graph.get(feature).parent_keys
    ops = {definitions.get_assets_def(key).op.name for key in (next(iter(told)), vectors, feature)}
    assert ops == {"teacher_tables", "teacher_vectors", "ranking_tables"}
    job = definitions.resolve_job_def("ranking_tables_job")
    assert {vectors, feature, *told} <= job.asset_layer.selected_asset_keys
    resources = {"settings": world.settings, "progress": ProgressResource()}
    day = world.days[1]
    made = dg.materialize([definitions.get_assets_def(vectors)], partition_key=day.isoformat(), resources=resources)
    [told_of] = made.asset_materializations_for_node("teacher_vectors")
    rows = sum(embedding.days[1].rows for embedding in world.report.embeddings)
    assert told_of.metadata["rows"].value == told_of.metadata["dagster/partition_row_count"].value == rows > 30
    assert told_of.metadata["contract_hash"].value == world.contract.contract_hash
