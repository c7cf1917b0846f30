"""What /rank promises: order, names of release and feature day, one hash for ids, and no skew."""

from collections.abc import Sequence
from datetime import timedelta

import httpx
import numpy as np
import orjson
import pyarrow as pa
import pytest

from deploy.serving.engine import Engine
from deploy.serving.limits import Limits
from deploy.serving.metrics import Metrics
from deploy.serving.rank import prepare, read_request
from deploy.serving.run import example_answer, request_example, serving
from ml.features.tables import feature_tables, for_dbt
from ml.foundation.ids import ID63_SQL, id63
from ml.foundation.lake import Lake
from ml.inference.request import OUTCOMES
from ml.students.columns import to_arrays
from ml.surfaces.spec import Surface
from tests.support.known import present, the
from tests.support.pages import as_shown
from tests.support.tiny_home import DAY, ITEMS, USERS, Home, rank_body, tiny_settings


@pytest.mark.parametrize("surface", ["homepage", "radio"])
def test_answers_name_release_and_feature_day_and_fall_by_score(
    client: httpx.Client, ready_home: Home, surface: str
) -> None:
    champion = ready_home.store.champion(surface)
    assert champion is not None
    answer = client.post("/rank", json=rank_body(surface)).raise_for_status().json()
    assert (answer["surface"], answer["release"]) == (surface, champion.release.id)
    assert answer["feature_day"] == DAY.isoformat()
    scores = [item["score"] for item in answer["items"]]
    assert len(scores) == 20 and scores == sorted(scores, reverse=True)
    assert sorted(item["index"] for item in answer["items"]) == list(range(20))
    assert all(item["item_id"] == f"i{item['index']}" for item in answer["items"])
    assert set(answer["items"][0]) == {"item_id", "index", "score", *ready_home.surfaces[surface].tasks}


def test_the_requests_that_pages_show_are_answered_best_item_first(client: httpx.Client, ready_home: Home) -> None:
    """Their words are sent as curl sends them."""
    plain = as_shown(
        "curl -s localhost:8080/rank -H 'content-type: application/json' -d "
        '\'{"surface": "homepage", "user_id": "u17", "candidates": [{"item_id": "t4"}, {"item_id": "t9"}]}\''
    )
    logged = as_shown(
        "curl -s localhost:8080/rank -H 'content-type: application/json' -d "
        '\'{"surface": "homepage", "user_id": "u17", "candidates": [{"item_id": "t4", "exposure_id": "e901"}]}\''
    )
    for words, items in ((plain, {"t4", "t9"}), (logged, {"t4"})):
        silent, address, *(header, told, data, body) = words
        assert (silent, header, data) == ("-s", "-H", "-d")
        name, _, value = told.partition(": ")
        url = address.removeprefix("localhost:8080")
        answer = client.post(url, content=body, headers={name: value}).raise_for_status().json()
        scores = [item["score"] for item in answer["items"]]
        assert {item["item_id"] for item in answer["items"]} == items and scores == sorted(scores, reverse=True)
        assert answer["release"] == present(ready_home.store.champion("homepage")).release.id


def test_numbers_are_ids_as_their_strings(client: httpx.Client) -> None:
    texts = rank_body(user="17", items=1) | {"candidates": [{"item_id": "42", "container_id": "7"}]}
    numbers = texts | {"user_id": 17, "candidates": [{"item_id": 42, "container_id": 7}]}
    first, second = (client.post("/rank", json=body).json()["items"][0]["score"] for body in (texts, numbers))
    assert first == second


def test_unknown_user_and_items_are_ranked_with_defaults(client: httpx.Client) -> None:
    for user in (None, "nobody"):
        body = rank_body(user=user) | {"candidates": [{"item_id": "never seen"}, {"item_id": "i1"}]}
        assert len(client.post("/rank", json=body).raise_for_status().json()["items"]) == 2


def test_the_hour_comes_from_the_time_of_the_request(client: httpx.Client) -> None:
    def score(**more: object) -> float:
        body = rank_body(items=1) | more
        return client.post("/rank", json=body).raise_for_status().json()["items"][0]["score"]

    body_hour = score(hour=21)
    assert score(hour=None, ts="2026-01-20T21:30:00") == body_hour
    assert score(hour=None, ts="2026-01-20T23:30:00+02:00") == body_hour
    assert score(hour=None, ts="2026-01-20T20:59:59Z") != body_hour


def test_an_event_list_keeps_the_newest_and_pads(client: httpx.Client) -> None:
    def score(outcomes: Sequence[object]) -> float:
        body = rank_body(items=1, session={"outcomes": outcomes})
        return client.post("/rank", json=body).raise_for_status().json()["items"][0]["score"]

    assert score(["skipped"] * 8) == score(["skipped"] * 8 + ["completed"] * 100)
    assert score(["completed", "stopped"]) == score([1, 3, 0, 0])
    assert score([]) != score(["completed"])


@pytest.mark.slow
def test_logged_requests_get_the_bytes_that_training_read(ready_home: Home) -> None:
    """Skew: `daily` and `request` inputs equal the examples' columns, `after_ranking` ones their serving value."""
    rng = np.random.default_rng(5)
    rows, events = 300, list(OUTCOMES)
    sessions = [[events[code] for code in rng.integers(0, 3, rng.integers(0, 9))] for _ in range(rows)]
    codes = [[OUTCOMES[event] for event in session] + [0] * (8 - len(session)) for session in sessions]
    log = {
        "exposure_id": list(range(rows)),
        "ts": [f"2026-01-20T{hour:02d}:10:00" for hour in rng.integers(0, 24, rows)],
        "user_id": [f"u{n}" if n < USERS else None for n in rng.integers(0, USERS + 6, rows)],
        "item_id": [f"i{n}" for n in rng.integers(0, ITEMS + 5, rows)],
        "container_id": [("new", "héllo ", None)[n] for n in rng.integers(0, 3, rows)],
        "seed_item_id": [f"i{n}" for n in rng.integers(0, ITEMS, rows)],
    }
    engine = Engine(ready_home.settings, Metrics())
    engine.refresh()
    with Lake(ready_home.settings) as lake:
        lake.connection.register("log", pa.table(log | {"codes": pa.array(codes, pa.list_(pa.int64()))}))
        for name, surface in ready_home.surfaces.items():
            served, trained = engine.served[name], to_arrays(_examples(lake, surface), surface.inputs, "serving")
            shared = [key for key in ("seed_item_id",) if key in surface.inputs]
            each = [key for key in ("item_id", "container_id") if key in surface.inputs]
            for row in range(rows):
                body = {"surface": name, "session": {"outcomes": sessions[row]}}
                body |= {key: log[key][row] for key in ("user_id", "ts", *shared)}
                body["candidates"] = [{key: log[key][row] for key in each}]
                request = read_request(orjson.dumps(body), Limits())
                feeds = prepare(request, served, engine, Metrics())
                assert feeds.keys() == trained.keys()
                for key, value in feeds.items():
                    logged = trained[key][row : row + 1]
                    assert (value.dtype, value.shape) == (logged.dtype, logged.shape), key
                    assert value.tobytes() == logged.tobytes(), f"{name}: {key} of row {row}: {value} is not {logged}"
            assert served.features is not None
            looked_up, _ = served.features.lookup(trained["user_id"], trained["item_id"])
            assert all(value.tobytes() == trained[key].tobytes() for key, value in looked_up.items())


def _examples(lake: Lake, surface: Surface) -> pa.Table:
    """The rows of ``log`` joined with the features of their day, as the examples are."""
    ids = ("user_id", "item_id", "container_id", "seed_item_id")
    hashed = ", ".join(f"{ID63_SQL.format(column=column)} as {column}" for column in ids)
    daily = ", ".join(f'{item.source} as "{name}"' for name, item in surface.inputs.items() if item.source)
    joins = " ".join(
        f"left join features.{table['name']} on {table['name']}.day = exposures.day and {table['same_entity']}"
        for table in for_dbt(feature_tables(lake.settings))
    )
    return lake.sql(f"""
        with exposures as (
            select exposure_id, date '{DAY}' as day, {hashed}, hour(ts::timestamp) as hour, codes as session_outcomes
            from log
        )
        select exposures.*, {daily} from exposures {joins}
        order by exposure_id
    """)


@pytest.mark.slow
def test_the_example_request_is_answered(home: Home) -> None:
    home.publish()
    home.promote("radio", 1)
    columns = ("exposure_id", "user_id", "session_id", "item_id", "container_id", "seed_item_id")
    rows = {name: [f"{name[0]}{n % 30}" for n in range(300)] for name in columns}
    rows |= {"day": [DAY] * 300, "surface": ["radio"] * 300, "ts": [None] * 300}
    with Lake(home.settings) as lake:
        lake.replace_days("landing.exposures", pa.table(rows), [DAY])
    request = request_example(home.settings, "radio")
    assert len(the(list, request["candidates"])) == 20 and str(request["user_id"]).startswith("u")
    guarded = tiny_settings(home.settings.home, serve_token="s3cret")
    answer = example_answer(guarded, "radio")
    assert len(the(list, answer["items"])) == 20 and answer["surface"] == "radio"


def test_features_that_are_too_old_make_the_server_not_ready(home: Home) -> None:
    home.publish()
    home.promote("homepage", 1)
    limit = home.settings.max_feature_age_days
    for age, status in ((limit, 200), (limit + 1, 503)):
        aged = tiny_settings(home.settings.home, last_day=DAY + timedelta(days=age))
        with serving(aged) as url:
            ready = httpx.get(f"{url}/v2/health/ready")
            ranked = httpx.post(f"{url}/rank", json=rank_body())
            assert (ready.status_code, ranked.status_code) == (status, status)
            assert httpx.get(f"{url}/v2/health/live").status_code == 200
            if status == 503:
                assert "days old" in ready.json()["error"] and "days old" in ranked.json()["error"]


def test_without_a_champion_or_features_the_server_lives_but_is_not_ready(home: Home) -> None:
    with serving(home.settings, poll_s=0.05) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v2/health/live").status_code == 200
        assert "no surface has a champion" in client.get("/v2/health/ready").json()["error"]
        home.promote("radio", 1)
        assert client.post("/rank", json=rank_body("radio")).status_code in (404, 503)
        home.publish()
        for _ in range(200):
            if client.get("/v2/health/ready").status_code == 200:
                break
        assert client.post("/rank", json=rank_body("radio")).status_code == 200


def test_the_hash_of_ids_is_the_lakes(home: Home) -> None:
    with Lake(home.settings) as lake:
        [row] = lake.sql(f"select {ID63_SQL.format(column=chr(39) + 'ü1' + chr(39))} as id").to_pylist()
    assert row["id"] == id63("ü1")
