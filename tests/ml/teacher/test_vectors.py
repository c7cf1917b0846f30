"""The teacher's vectors: of each user and item of a day once, repeatable, with their origin, and never half written."""

from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml.features.tables import VECTORS_TABLE
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.teacher import vectors
from ml.teacher.contract import ContractError, load_contract
from ml.teacher.refused import TeacherRefused
from ml.teacher.runtime import open_teacher
from ml.teacher.vectors import VectorError, embed_days, vector_hashes

Write = Callable[..., Any]

GRAPH = """
<ir_version: 9, opset_import: ["" : 17]>
good (int64[n] user, float[n, 1] age, float[n, 3] taste) => (float[n] click, float[n, 2] who, float[n, 3] liking) {
    axis = Constant <value = int64[1] {1}> ()
    user_f = Cast <to = 1> (user)
    scale = Constant <value = float {1e-3}> ()
    user_s = Mul (user_f, scale)
    user_sin = Sin (user_s)
    column = Unsqueeze (user_sin, axis)
    who = Concat <axis = 1> (column, age)
    liking = Sin (taste)
    taste_sum = ReduceSum <keepdims = 0> (taste, axis)
    click = Add (user_sin, taste_sum)
}
"""
"""who = [sin(user / 1000), age], liking = sin(taste)."""

EMBEDDINGS = [
    {"name": "person", "output": "who", "entity": "user_id", "inputs": ["user", "age"]},
    {"name": "liking", "entity": "item_id", "inputs": ["taste"]},
]
CHANGES: dict[str, Any] = {"outputs": [{"task": "click", "kind": "logit"}], "embeddings": EMBEDDINGS}
USERS, ITEMS, ROWS = 40, 25, 300


def shown(lake: Lake, days: list[date], write_inputs: Write, **columns: Any) -> None:
    """Write exposures of a few users and items, and teacher inputs that follow from both."""
    of_row = {day: np.random.default_rng(number) for number, day in enumerate(days)}
    people = {day: rng.integers(0, USERS, ROWS) for day, rng in of_row.items()}
    things = {day: rng.integers(0, ITEMS, ROWS) for day, rng in of_row.items()}
    for day in days:
        told = {
            "exposure_id": pa.array(range(ROWS), pa.int64()),
            "user": pa.array(people[day] * 100),
            "age": pa.array(people[day] / 10),
            "taste": pa.array([[float(item), 1.0, 2.0] for item in things[day]], pa.list_(pa.float32())),
        }
        write_inputs([day], rows=ROWS, **{**told, **columns})
        exposures = {
            "day": pa.repeat(pa.scalar(day, pa.date32()), ROWS),
            "exposure_id": pa.array(range(ROWS), pa.int64()),
            "user_id": pa.array(people[day]),
            "item_id": pa.array(things[day]),
        }
        lake.replace_days("features.stg_exposures", pa.table(exposures), [day])


def stored(lake: Lake, condition: str) -> dict[int, list[float]]:
    rows = lake.sql(f"select coalesce(user_id, item_id) as id, vector from lake.{VECTORS_TABLE} where {condition}")
    return dict(zip(rows["id"].to_pylist(), rows["vector"].to_pylist(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_each_user_and_item_of_a_day_has_the_vector_that_the_model_gives(
    threads: int,
    lake: Lake,
    settings: Settings,
    teacher_folder: Write,
    write_inputs: Write,
    days: list[date],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vectors, "BATCH_ROWS", 16)
    contract = load_contract(teacher_folder(GRAPH, **CHANGES))
    shown(lake, days[:2], write_inputs)
    report = embed_days(lake, settings.model_copy(update={"threads": threads}), contract, ["home", "none"], days)
    person, liking = report.embeddings
    assert [(d.entities, d.rows) for d in person.days] == [(USERS, USERS), (USERS, USERS), (0, 0)]
    assert (person.length, liking.length, liking.rows) == (2, 3, 2 * ITEMS)
    users = stored(lake, f"embedding = 'person' and day = '{days[1]}'")
    assert users.keys() == set(range(USERS))
    np.testing.assert_allclose([users[7]], [[np.sin(0.7), 0.7]], rtol=1e-6)
    items = stored(lake, f"embedding = 'liking' and day = '{days[0]}'")
    np.testing.assert_allclose([items[3]], np.sin([[3.0, 1.0, 2.0]]), rtol=1e-5)
    origin = lake.sql(f"select distinct teacher, teacher_version, contract_hash from lake.{VECTORS_TABLE}").to_pylist()
    assert origin == [{"teacher": "small", "teacher_version": "1", "contract_hash": contract.contract_hash}]
    again = embed_days(lake, settings, contract, ["home"], days[1:])
    assert again.embeddings[0].days == person.days[1:], "a day that is computed again is the same, and there once"
    assert len(stored(lake, f"embedding = 'person' and day = '{days[1]}'")) == USERS
    assert vector_hashes(lake, contract, "person", days[:1]) == {days[0]: (USERS, person.days[0].content_hash)}


@pytest.mark.slow
def test_what_the_teacher_is_not_told_is_counted_and_who_it_knows_nothing_of_has_no_vector(
    lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date]
) -> None:
    contract = load_contract(teacher_folder(GRAPH, **CHANGES))
    shown(lake, days[:1], write_inputs)
    lake.connection.execute(
        'update lake.features.teacher_inputs_home set age = null, "user" = nullif("user", 0) where "user" in (0, 100)'
    )
    [person, _] = embed_days(lake, settings, contract, ["home"], days[:1]).embeddings
    assert (person.entities, person.rows) == (USERS, USERS - 1)
    assert person.defaulted_inputs == {"user": 1, "age": 2}
    assert person.days[0].defaulted_share == pytest.approx(0.5 / (USERS - 1))
    users = stored(lake, "embedding = 'person'")
    assert 0 not in users and users[1] == pytest.approx([np.sin(0.1), 0.5])


@pytest.mark.slow
def test_inputs_that_do_not_depend_on_the_user_alone_are_refused_and_nothing_is_written(
    lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date]
) -> None:
    contract = load_contract(teacher_folder(GRAPH, **CHANGES))
    shown(lake, days[:2], write_inputs)
    embed_days(lake, settings, contract, ["home"], days[:2])
    before = lake.content_hash(f"lake.{VECTORS_TABLE}")
    lake.connection.execute(
        f"update lake.features.teacher_inputs_home set taste = [9, 9, 9] where day = '{days[1]}' and exposure_id = 5"
    )
    with pytest.raises(VectorError, match=rf"'liking'.*on {days[1]} 1 values of item_id.*differ in taste"):
        embed_days(lake, settings, contract, ["home"], days[:2])
    assert lake.content_hash(f"lake.{VECTORS_TABLE}") == before
    assert not list((settings.home / "spool").iterdir())


@pytest.mark.slow
def test_a_vector_that_is_not_finite_is_named_and_nothing_is_written(
    lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date]
) -> None:
    squared = GRAPH.replace("liking = Sin (taste)", "liking = Mul (taste, taste)")
    contract = load_contract(teacher_folder(squared, **CHANGES))
    shown(lake, days[:1], write_inputs)
    lake.connection.execute("update lake.features.teacher_inputs_home set taste = [3e38, 0, 0] where taste[1] = 4")
    with pytest.raises(VectorError, match="'liking' of item_id 4 is not finite; nothing was written"):
        embed_days(lake, settings, contract, ["home"], days[:1])
    assert not lake.table_exists(VECTORS_TABLE)


def test_a_vector_that_hangs_on_an_input_which_is_not_named_for_it_is_refused(teacher_folder: Write) -> None:
    changes = CHANGES | {"embeddings": [EMBEDDINGS[0] | {"inputs": ["user"]}]}
    with pytest.raises(TeacherRefused, match=r"'person' of user_id depends on other inputs than \['user'\]"):
        open_teacher(load_contract(teacher_folder(GRAPH, **changes)))


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        ({"output": "whom"}, r"no output 'whom' \(embedding 'person'\).*did you mean 'who'"),
        ({"output": "click"}, r"'click' \(embedding 'person'\) has 1 dimensions"),
    ],
)
def test_an_output_that_is_no_vector_of_each_row_is_refused(
    teacher_folder: Write, embedding: dict[str, Any], message: str
) -> None:
    with pytest.raises(TeacherRefused, match=message):
        open_teacher(load_contract(teacher_folder(GRAPH, **CHANGES | {"embeddings": [EMBEDDINGS[0] | embedding]})))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings": [EMBEDDINGS[0] | {"inputs": ["users"]}]}, r"'users' is no input; there are \['age', 'taste'"),
        ({"embeddings": [EMBEDDINGS[0]] * 2}, r"embedding 'person' is declared twice"),
        ({"embeddings": [EMBEDDINGS[0] | {"entity": "session_id"}]}, r"entity"),
        ({"model": None, "endpoint": {"url": "http://x", "model": "m"}}, r"an endpoint and landed scores have none"),
    ],
)
def test_a_contract_says_what_is_wrong_with_its_embeddings(
    teacher_folder: Write, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        load_contract(teacher_folder(GRAPH, **CHANGES | changes))


def test_a_contract_without_embeddings_keeps_its_hash(teacher_folder: Write) -> None:
    plain, other = (load_contract(teacher_folder(GRAPH, **CHANGES | {"embeddings": e})) for e in ([], EMBEDDINGS))
    named = plain.model_dump(mode="json", exclude_defaults=True)
    assert "embeddings" not in named and plain.contract_hash != other.contract_hash
