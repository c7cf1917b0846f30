"""Two teachers and the rows that both speak of: pairs, withdrawn links, a forgotten person, vectors, and what is told.

No candidate is made here; ``test_two_teachers.py`` has the way from labels to the gate.
"""

import shutil
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import polars as pl
import pyarrow as pa
import pytest
import yaml

from assets.names import VECTORS
from checks.guards import soft_labels
from checks.vectors import Vectors, judge_vectors
from deploy.automation.sensors import unlabelled
from deploy.cli.doctor import EXAMINATIONS
from ml.evaluation.diagnosis import diagnose
from ml.evaluation.outcome import Outcome
from ml.features.tables import VECTORS_TABLE
from ml.features.unshown import unshown_inputs_table, unshown_table
from ml.foundation.ids import id63
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from ml.landing.load import init_tables
from ml.operations.app_files import FILES
from ml.operations.app_trial import REMEDIES, TRIALS
from ml.operations.findings import State, examine
from ml.operations.forget import forget
from ml.operations.plan import plan
from ml.releases.manifest import vector_content
from ml.releases.verdicts import Check
from ml.stages.training import train_model
from ml.stages.training_set import make_training_set
from ml.students.dataset import TrainingSetError, load
from ml.surfaces.files import load_surface
from ml.surfaces.spec import Surface
from ml.teacher.labels import label_days, unshown_rows
from ml.teacher.teachers import home_contracts
from ml.teacher.vectors import embed_days
from ml.teacher.withdrawn import drop_withdrawn, drop_withdrawn_vectors
from tests.checks.conftest import SPEC
from tests.support.known import present
from tests.support.toys import GRAPH

PAIRS, INPUTS, LABELS = unshown_table("tiny"), unshown_inputs_table("tiny"), unshown_rows("tiny").labels
MODELS = {
    "video": GRAPH,
    "books": """
<ir_version: 9, opset_import: ["" : 17]>
books (float[n] level, float[n] absent) => (float[n] click, float[n, 2] person) {
    waves = Cos (level)
    click = Add (waves, absent)
    axis = Constant <value = int64[1] {1}> ()
    column = Unsqueeze (level, axis)
    more = Cos (column)
    person = Concat <axis = 1> (column, more)
}
""",
}
"""``video`` knows items, ``books`` knows users; each has a vector of what it knows."""
KNOWN = {"video": ("item_ctr", "thing", "item_id"), "books": ("level", "person", "user_id")}
YML = """
models:
  - name: feat_teacher_item
    config: {meta: {entity: [item_id], as: teacher_item, vectors: thing, default: {known: 0}}}
    columns: [{name: day}, {name: item_id}, {name: vector}, {name: known}]
  - name: feat_teacher_user
    config: {meta: {entity: [user_id], as: teacher_user, vectors: person, default: {known: 0}}}
    columns: [{name: day}, {name: user_id}, {name: vector}, {name: known}]
"""


def write(folder: Path, of: str, **changes: Any) -> Path:
    """Write a teacher's contract and model."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx.parser.parse_model(MODELS[of]), folder / "model.onnx")
    known, vector, entity = KNOWN[of]
    contract = {
        "name": of,
        "version": "1",
        "trained_through": date(2025, 12, 1),
        "source": "arithmetic",
        "license": "none",
        "model": "model.onnx",
        "inputs": [{"name": known, "dtype": "float32"}, {"name": "absent", "dtype": "float32", "default": 0.5}],
        "outputs": [{"task": "click", "kind": "logit"}],
        "embeddings": [{"name": vector, "entity": entity, "inputs": [known]}],
    }
    (folder / "contract.yaml").write_text(yaml.safe_dump(contract | changes), encoding="utf-8")
    return folder


def spec() -> dict[str, Any]:
    """Return a surface whose branch learns both teachers' labels, of pairs too, and that reads both their vectors."""
    heads = [{"teacher_output": f"{name}/click", "weight": 1.0} for name in MODELS]
    vectors = {
        f"teacher_{of}_vector": {"kind": "daily", "type": "vector", "length": 2, "from": f"feat_teacher_{of}.vector"}
        for of in ("item", "user")
    }
    return {
        **SPEC,
        "inputs": {**SPEC["inputs"], **vectors},
        "tasks": {**SPEC["tasks"], "ctr": {**SPEC["tasks"]["ctr"], "teacher_output": "video/click"}},
        "network": {**SPEC["network"], "interaction": {"embedding": 4, "layers": [4]}},
        "distillation": {"technique": "interaction", "heads": heads, "unshown": {"per_exposure": 1}},
    }


def of_day(toolbox: SimpleNamespace, day: date) -> pa.Table:
    """Return a day's examples with the hashes of ids that landing files could name."""
    rows = toolbox.examples(day)
    for name in ("user_id", "exposure_id"):
        ids = pa.array([id63(f"{name}-{value}") for value in rows[name].to_pylist()], pa.int64())
        rows = rows.set_column(rows.column_names.index(name), name, ids)
    return rows


def pairs_of(shown: pa.Table) -> pa.Table:
    """Return each exposure's user with an item of another exposure of the day that was not shown to the user."""
    seen = set(zip(shown["user_id"].to_pylist(), shown["item_id"].to_pylist(), strict=True))
    places = np.random.default_rng(3).permutation(shown.num_rows)
    lent = shown.take(pa.array(places))
    for name in ("exposure_id", "user_id", "session_id", "ts"):
        lent = lent.set_column(lent.column_names.index(name), name, shown[name])
    lent = lent.append_column("pair_id", shown["exposure_id"])
    lent = lent.append_column("drawn_by", pa.array(["uniform 1"] * len(places)))
    fresh = [p not in seen for p in zip(lent["user_id"].to_pylist(), lent["item_id"].to_pylist(), strict=True)]
    return lent.filter(pa.array(fresh))


def told(rows: pa.Table, *keys: str) -> pa.Table:
    """Return what the teachers are told of rows: of the account of every user."""
    levels = pa.array((rows["user_id"].to_numpy() % 17).astype(np.float32))
    accounts = pa.repeat(pa.scalar(7, pa.int64()), rows.num_rows)
    seen = rows.select(["day", "exposure_id", *keys, "ts", "item_ctr"])
    return seen.append_column("level", levels).append_column("source_user_id", accounts)


def hold_vectors(lake: Lake, days: list[date]) -> None:
    """Do what the macro ``teacher_vectors`` does where everybody is shown something every day."""
    for of, vector in (("item", "thing"), ("user", "person")):
        read = f"""
            select day + 1 as day, {of}_id, vector, 1 as known, day as vector_day, teacher, teacher_version,
                contract_hash
            from {ALIAS}.{VECTORS_TABLE} where embedding = '{vector}'"""
        lake.replace_days(f"features.feat_teacher_{of}", lake.sql(read), days)


@pytest.fixture(scope="module")
def home(toolbox: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Surface]:
    """A home of 7 days with all that both teachers say: labels, those of pairs, and vectors that examples hold."""
    home = tmp_path_factory.mktemp("rows") / "home"
    app = home / "app"
    for folder in (app / "surfaces", app / "models"):
        folder.mkdir(parents=True)
    (app / "dbt_project.yml").write_text("name: mine\n", encoding="utf-8")
    (app / "models" / "features.yml").write_text(YML, encoding="utf-8")
    (app / "surfaces" / "tiny.yaml").write_text(yaml.safe_dump(spec(), sort_keys=False), encoding="utf-8")
    settings = Settings(
        home=home,
        app=app,
        first_day=toolbox.FIRST,
        last_day=toolbox.PARTITION,
        threads=1,
        source="files",
        surfaces_dir=app / "surfaces",
        teachers={name: write(app / "teacher" / name, name) for name in MODELS},
    )
    days = settings.days(toolbox.FIRST, toolbox.PARTITION)
    rows = pa.concat_tables([of_day(toolbox, day) for day in days])
    pairs = pa.concat_tables([pairs_of(of_day(toolbox, day)) for day in days])
    with Lake(settings) as lake:
        init_tables(lake)
        lake.replace_days("features.stg_exposures", rows.select(["day", "exposure_id", "user_id", "item_id"]), days)
        lake.replace_days("features.teacher_inputs_tiny", told(rows), days)
        lake.replace_days(INPUTS, told(pairs, "pair_id"), days)
        for contract in home_contracts(settings).values():
            label_days(lake, settings, "tiny", contract, days)
            label_days(lake, settings, "tiny", contract, days, rows_of=unshown_rows)
            embed_days(lake, settings, contract, ["tiny"], days)
        hold_vectors(lake, days)
        for table, of in (("features.examples_tiny", rows), (PAIRS, pairs)):
            lake.connection.register("_rows", of)
            joined = lake.sql(f"""
                select r.*, i.vector as teacher_item_vector, u.vector as teacher_user_vector from _rows as r
                left join {ALIAS}.features.feat_teacher_item as i using (day, item_id)
                left join {ALIAS}.features.feat_teacher_user as u using (day, user_id)""")
            lake.connection.unregister("_rows")
            lake.replace_days(table, joined, days)
    return settings, load_surface(app / "surfaces" / "tiny.yaml")


@pytest.fixture
def own(home: tuple[Settings, Surface], tmp_path: Path) -> tuple[Settings, Surface]:
    """A copy of the home that a test may change."""
    settings, surface = home
    copy = shutil.copytree(settings.home, tmp_path / "home")
    teachers = {name: copy / "app" / "teacher" / name for name in MODELS}
    changes = {"home": copy, "app": copy / "app", "surfaces_dir": copy / "app" / "surfaces", "teachers": teachers}
    values = {name: getattr(settings, name) for name in ("first_day", "last_day", "threads", "source")}
    return Settings(**values, **changes), surface


def failed(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if check.outcome is not Outcome.PASS}


def test_pairs_have_labels_of_both_and_each_is_judged_and_missed_by_its_name(
    own: tuple[Settings, Surface], toolbox: SimpleNamespace
) -> None:
    settings, surface = own
    made = make_training_set(settings, surface, toolbox.PARTITION)
    pairs = present(load(settings, made, surface, made.train_days, soft_labels=True).unshown).rows
    assert set(present(made.unshown).coverage.values()) == {1.0}
    rate = pairs.inputs["item_ctr"].numpy() if "item_ctr" in pairs.inputs else None
    video, books = (pairs.soft_labels[f"{name}/click"].numpy() for name in MODELS)
    assert rate is None or np.allclose(video, 4 * rate + 0.5, atol=1e-5)
    np.testing.assert_allclose(books, np.cos(pairs.user_id.numpy() % 17) + 0.5, atol=1e-5)
    assert np.abs(video - books).max() > 0.1
    with Lake(settings) as lake:
        checks = soft_labels.judge_unshown(lake, surface, made.train_days)
        assert failed(checks) == set()
        assert {f"{name}/unshown_coverage" for name in MODELS} <= {check.name for check in checks}
        of_books = f"delete from {ALIAS}.{LABELS} where teacher = 'books' and day = ?"
        lake.connection.execute(f"{of_books} and pair_id % 10 = 0", [made.train_days[0]])
        assert failed(soft_labels.judge_unshown(lake, surface, made.train_days)) == {"books/unshown_coverage"}
        lake.connection.execute(of_books, [made.train_days[0]])
    with pytest.raises(TrainingSetError, match=rf"of {made.train_days[0]} have no label of teacher books, none: see"):
        make_training_set(settings, surface, toolbox.PARTITION)


def test_a_withdrawn_link_takes_the_labels_pairs_and_vectors_of_both_along(
    own: tuple[Settings, Surface], toolbox: SimpleNamespace
) -> None:
    settings, surface = own
    first, last = toolbox.FIRST, toolbox.PARTITION
    left, stays = id63("user_id-1"), id63("user_id-2")
    links = pa.table(
        {
            "day": pa.array([first, first, last], pa.date32()),
            "user_id": pa.array([left, stays, left], pa.int64()),
            "source_user_id": pa.array([11, 12, None], pa.int64()),
        }
    )
    with Lake(settings) as lake:
        lake.replace_days("features.stg_users", links, [first, last])

        def of(user: int, table: str) -> int:
            mine = f"(select exposure_id from {ALIAS}.features.stg_exposures where user_id = {user} and day < ?)"
            query = f"select count(*) from {ALIAS}.{table} where exposure_id in {mine}"
            [(rows,)] = lake.connection.execute(query, [last]).fetchall()
            return rows

        tables = ("features.teacher_inputs_tiny", "ml.soft_labels_tiny", LABELS)
        shown, labels, pairs = (of(left, table) for table in tables)
        kept = [of(stays, table) for table in tables]
        assert labels == 2 * shown > 0 and pairs > 0, "a label of each teacher"
        gone = drop_withdrawn(lake, "tiny")
        assert (gone.users, gone.inputs, gone.labels, gone.pairs) == (1, shown, labels, pairs)
        assert not any(of(left, table) for table in tables) and [of(stays, table) for table in tables] == kept
        vectors = drop_withdrawn_vectors(lake)
        assert vectors.users == 1 and vectors.vectors == vectors.features == (last - first).days
        assert vectors.examples > 0
        by_teacher = f"select teacher, count(*) as n from {ALIAS}.{VECTORS_TABLE} where user_id = {left} group by all"
        assert lake.sql(by_teacher).to_pylist() == [{"teacher": "books", "n": 1}], "the day without the account"
        days = settings.days(first, last)
        for pinned in soft_labels.pinned_of(lake, surface):
            measured = soft_labels.measure(lake, surface, days, pinned)
            assert {row["coverage"] for row in measured} == {1.0} and not any(r["strangers"] for r in measured)
    made = make_training_set(settings, surface, last)
    rows = load(settings, made, surface, made.train_days, soft_labels=True)
    of_user = rows.user_id.numpy() == left
    for name in MODELS:
        labels_of = rows.soft_labels[f"{name}/click"].numpy()
        assert np.isnan(labels_of[of_user]).all() and not np.isnan(labels_of[~of_user]).any()


def test_a_forgotten_person_is_in_nothing_that_either_teacher_said(
    own: tuple[Settings, Surface], toolbox: SimpleNamespace
) -> None:
    settings, _ = own
    user, day = "user_id-3", toolbox.FIRST
    every = toolbox.examples(day)
    shown = every.filter(pa.array(every["user_id"].to_numpy() == 3))
    lines = ["exposure_id,ts,surface,user_id,session_id,item_id"]
    lines += [f"exposure_id-{e},{day}T01:00:00Z,tiny,{user},s,i" for e in shown["exposure_id"].to_pylist()]
    file = present(settings.landing_dir) / "exposures" / f"day={day}" / "rows.csv"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    named = ("ml.soft_labels_tiny", LABELS, VECTORS_TABLE, PAIRS, INPUTS, "features.feat_teacher_user")
    found = forget(settings, user, dry_run=True).rows
    assert found["ml.soft_labels_tiny"] == 2 * shown.num_rows and set(named) <= found.keys()
    assert forget(settings, user).rows == found
    assert not forget(settings, user, dry_run=True).rows, "and nothing is left"
    assert pl.read_csv(file).height == 0


def test_the_vectors_of_each_are_judged_and_named_by_whose_they_are(own: tuple[Settings, Surface]) -> None:
    settings, surface = own
    days = settings.days(settings.first_day, present(settings.last_day))
    with Lake(settings) as lake:
        checks = judge_vectors(lake, surface, days, Vectors())
        assert failed(checks) == set()
        assert {f"vectors_of_feat_teacher_{of}_coverage" for of in ("item", "user")} <= {c.name for c in checks}
        held = {one.table: one for one in vector_content(lake, surface, days)}
        assert {name: one.teacher for name, one in held.items()} == {
            "feat_teacher_item": "video",
            "feat_teacher_user": "books",
        }
        lake.connection.execute(
            f"update {ALIAS}.features.feat_teacher_user set teacher = 'video' where day = ?", days[-1:]
        )
        assert failed(judge_vectors(lake, surface, days, Vectors())) == {"vectors_of_feat_teacher_user_other_teacher"}


def test_a_vector_that_moved_to_another_teacher_is_of_that_one_alone(own: tuple[Settings, Surface]) -> None:
    settings, _ = own
    write(settings.teachers["books"], "books", embeddings=[])
    again = write(present(settings.app) / "teacher" / "essays", "books", name="essays")
    moved = settings.model_copy(update={"teachers": {**settings.teachers, "essays": again}})
    contract = home_contracts(moved)["essays"]
    days = settings.days(settings.first_day, settings.first_day)
    with Lake(moved) as lake:
        embed_days(lake, moved, contract, ["tiny"], days)
        query = f"select distinct embedding, teacher from {ALIAS}.{VECTORS_TABLE} where day = ? order by 1"
        assert lake.connection.execute(query, days).fetchall() == [("person", "essays"), ("thing", "video")]


def test_check_and_doctor_open_both_and_tell_each_ones_share_and_faults(own: tuple[Settings, Surface]) -> None:
    settings, _ = own

    def look() -> dict[str, tuple[State, str]]:
        wanted = {name: FILES[name] for name in ("teacher contract", "names")}
        wanted |= {name: TRIALS[name] for name in ("teacher", "teacher inputs", "sample labels")}
        found = {one.what: (one.state, one.told) for one in examine(settings, wanted, REMEDIES)}
        [of_doctor] = examine(settings, {"teacher": EXAMINATIONS["teacher"]}, REMEDIES)
        return found | {"doctor": (of_doctor.state, of_doctor.told)}

    found = look()
    assert "has no output" not in found.pop("names")[1], "of features the toy surface names others than there are"
    assert {state for state, _ in found.values()} == {State.GOOD}, found
    assert found["teacher contract"][1] == "video 1, 2 inputs\nbooks 1, 2 inputs"
    assert found["teacher inputs"][1].splitlines() == [
        f"tiny, {name}: 1 of 2 inputs; absent take their defaults" for name in MODELS
    ]
    assert [line.split(":")[0] for line in found["sample labels"][1].splitlines()] == ["tiny, video", "tiny, books"]
    assert [line.split()[0] for line in found["doctor"][1].splitlines()] == list(MODELS)
    for name in MODELS:
        write(settings.teachers[name], name, outputs=[{"task": "clck", "kind": "logit"}])
    found = look()
    for state, faults in (found["teacher"], found["doctor"]):
        assert state is State.BAD
        lines = dict(zip(MODELS, faults.splitlines(), strict=True))
        assert all(f"teacher/{name}/model.onnx" in line and "clck" in line for name, line in lines.items()), faults
    assert found["names"][0] is State.BAD
    assert "teacher 'books' has no output 'click'; did you mean 'books/clck'?" in found["names"][1]


def test_a_plan_tells_the_labels_pairs_vectors_and_students_of_the_one_that_changed(
    own: tuple[Settings, Surface], toolbox: SimpleNamespace
) -> None:
    settings, surface = own
    make_training_set(settings, surface, toolbox.PARTITION)
    train_model(settings, surface, toolbox.PARTITION, "student", seed=1)
    assert list(plan(settings, {})) == []
    write(settings.teachers["books"], "books", version="2")
    found = {rebuild.what: rebuild for rebuild in plan(settings, {})}
    tables = {"ml.soft_labels_tiny", LABELS, VECTORS_TABLE}
    assert found.keys() == {*tables, "tiny/student"}
    assert {found[name].days for name in tables} == {7} and found["tiny/student"].last == toolbox.PARTITION
    assert {found[name].why for name in tables} == {
        "no label of books 2 with this contract and model",
        "no vector of books 2 with this contract and model",
    }
    assert found["tiny/student"].why == "its labels: no label of books 2 with this contract and model"


def test_vectors_of_a_teacher_that_labels_nothing_are_asked_for_when_it_changes(own: tuple[Settings, Surface]) -> None:
    settings, surface = own
    of_video = [head for head in surface.distillation.heads if head.teacher_output == "video/click"]
    surface = surface.model_copy(
        update={"distillation": surface.distillation.model_copy(update={"heads": tuple(of_video)})}
    )
    first, last = settings.first_day, present(settings.last_day)
    assert not list(unlabelled(settings, {"tiny": surface}, first, last))
    write(settings.teachers["books"], "books", version="2")
    [(contract, keys, days)] = unlabelled(settings, {"tiny": surface}, first, last)
    assert (contract.name, keys, days) == ("books", [VECTORS], settings.days(first, last))


@pytest.mark.slow
def test_a_diagnosis_tells_what_each_teachers_output_differs_by(
    own: tuple[Settings, Surface], toolbox: SimpleNamespace
) -> None:
    settings, surface = own
    made = make_training_set(settings, surface, toolbox.PARTITION)
    found = diagnose(settings, made, surface, seeds=1)
    assert [parts.output for parts in found.teacher] == ["video/click", "books/click"]
    video, books = found.teacher
    assert books.user > 0.9 and video.user < 0.1 and video.item > 0.3, "one knows users, the other items of the day"
    assert found.labelled_share == 1 and {task.task for task in found.tasks} == {"ctr", "trail"}
    [ctr] = [task for task in found.tasks if task.task == "ctr"]
    assert ctr.teacher is not None and ctr.stacked is not None
