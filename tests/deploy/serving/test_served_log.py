"""The served log: what entered the model and what came out, in files that land whole, and nobody waits for it."""

import gzip
import json
import os
import signal
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from benchmarks.process import crossfade
from deploy.serving.engine import Engine
from deploy.serving.metrics import Metrics
from deploy.serving.rank import RankRequest, prepare
from deploy.serving.run import serving
from deploy.serving.served_log import Scored, ServedLog, as_json
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.inference.request import RequestPlan
from ml.inference.snapshot import FeatureSnapshot, current_snapshot
from ml.landing.changes import changed_days
from ml.landing.load import load_days
from ml.landing.readiness import data_files
from ml.operations.forget import forget
from ml.operations.served_retention import remove_served
from tests.support.known import present, the
from tests.support.tiny_home import DAY, Home, rank_body, tiny_settings, wait_until

OTHERS = ("exposures", "listens", "items", "users")
TS = f"{DAY}T10:00:00Z"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home that lands the log."""
    return tiny_settings(tmp_path / "app", serve_log_share=1.0)


@pytest.fixture
def logging(settings: Settings, ready_home: Home) -> Settings:
    """The settings of a server that writes it."""
    return ready_home.settings.model_copy(update={"serve_log_share": 1.0, "serve_log_dir": settings.serve_log_dir})


@pytest.fixture(scope="module")
def engine(ready_home: Home) -> Engine:
    found = Engine(ready_home.settings, Metrics())
    found.refresh()
    return found


def landed(settings: Settings) -> pa.Table:
    """Land the log of the day and return its rows."""
    with Lake(settings) as lake:
        [report] = load_days(lake, settings, [DAY], {"homepage", "radio"}, ["served"])
        assert report.rows_quarantined == 0 and report.rows_in == report.rows_loaded
        return lake.sql("select * from lake.landing.served order by ts, surface, request_id, rank")


def files(settings: Settings) -> list[Path]:
    return sorted(the(Path, settings.serve_log_dir).glob("day=*/*"))


def count(metrics: Metrics, outcome: str) -> float:
    return metrics.served_log.labels(outcome)._value.get()


@pytest.mark.slow
def test_what_lands_is_what_entered_the_model_and_what_was_answered(
    settings: Settings, logging: Settings, ready_home: Home
) -> None:
    bodies = {
        surface: rank_body(surface, user, ts=f"{DAY}T1{i}:00:00Z")
        for i, (surface, user) in enumerate({"homepage": "u1", "radio": None}.items())
    }
    bodies["homepage"]["candidates"][3]["exposure_id"] = "e3"
    with serving(logging, poll_s=0.1) as url:
        answers = {
            name: httpx.post(f"{url}/rank", json=body).raise_for_status().json() for name, body in bodies.items()
        }
        assert httpx.post(f"{url}/rank", json=rank_body()).status_code == 200  # today is no day of this source
        wait_until(lambda: 'crossfade_served_log_total{outcome="outside"} 1.0' in httpx.get(f"{url}/metrics").text)
    assert [path.suffix for path in files(settings)] == [".gz"]
    rows = landed(settings)
    snapshot = FeatureSnapshot.load(the(Path, current_snapshot(logging)))
    for surface, body in bodies.items():
        own = [row for row in rows.to_pylist() if row["surface"] == surface]
        answer, spec = answers[surface], ready_home.surfaces[surface]
        assert [(row["item_id"], row["candidate"]) for row in own] == [
            (i["item_id"], i["index"]) for i in answer["items"]
        ]
        assert [np.float32(row["score"]) for row in own] == [np.float32(item["score"]) for item in answer["items"]]
        assert {row["release_id"] for row in own} == {answer["release"]}
        assert {(row["features"], row["feature_day"]) for row in own} == {(snapshot.id, str(DAY))}
        assert {row["user_id"] for row in own} == {body["user_id"]} and len({row["request_id"] for row in own}) == 1
        request = {name: value for name, value in body.items() if name not in ("surface", "candidates", "ts")}
        feeds, _ = RequestPlan(spec.inputs).feeds(request, body["candidates"], snapshot.bind(spec.inputs))
        for name, item in spec.inputs.items():
            logged = np.array([json.loads(row["inputs"])[name] for row in own], dtype=item.dtype)
            assert np.array_equal(logged, feeds[name][[row["candidate"] for row in own]]), name
        assert json.loads(own[0]["outputs"]).keys() == spec.tasks.keys()
    [named] = [row for row in rows.to_pylist() if row["exposure_id"]]
    assert (named["exposure_id"], named["item_id"], named["candidate"]) == ("e3", "i3", 3)


@pytest.mark.slow
def test_an_exposure_id_is_no_input_and_one_that_is_none_is_refused(client: httpx.Client, ready_home: Home) -> None:
    body = rank_body()
    plain = client.post("/rank", json=body).json()
    body["candidates"][0]["exposure_id"] = 17
    assert client.post("/rank", json=body).json() == plain
    body["candidates"][0]["exposure_id"] = [17]
    refused = client.post("/rank", json=body)
    assert refused.status_code == 422 and "candidates[0].exposure_id must be a string" in refused.json()["error"]
    assert not files(ready_home.settings)  # nothing is logged unless somebody says so


@pytest.mark.slow
def test_an_interleaved_answer_names_whose_scores_and_picks_are_whose(home: Home) -> None:
    home.publish()
    home.promote("homepage", 1)
    rival = home.challenge("homepage", 3, mode="interleave", share=1.0)
    settings = home.settings.model_copy(update={"serve_log_share": 1.0})
    with serving(settings, poll_s=0.1) as url:
        answer = httpx.post(f"{url}/rank", json=rank_body(ts=TS)).raise_for_status().json()
    rows = landed(settings).to_pylist()
    assert [row["arm"] for row in rows] == [item["arm"] for item in answer["items"]]
    assert [np.float32(row["score"]) for row in rows] == [np.float32(item["score"]) for item in answer["items"]]
    assert {row["release_id"] for row in rows if row["arm"].endswith("challenger")} == {
        present(rival.challenger).release
    }
    assert {row["release_id"] for row in rows if row["arm"].endswith("control")} == {answer["release"]}


def offer(log: ServedLog, engine: Engine, user: str = "u1", **more: Any) -> None:
    """Offer the log an answer of the homepage, as the server does."""
    asked = RankRequest.model_validate(rank_body(user=user, **{"ts": TS, **more}))
    served = engine.served["homepage"]
    feeds = prepare(asked, served, engine, engine.metrics)
    log.offer(asked, [Scored(served, feeds, served.released.model.run(feeds))])


def test_more_than_may_wait_is_dropped_and_counted_and_nobody_waits(settings: Settings, engine: Engine) -> None:
    metrics = Metrics()
    log = ServedLog(settings, metrics, most_rows=30)  # of requests of 20 candidates, one
    for _ in range(3):
        offer(log, engine)
    assert count(metrics, "dropped") == 2
    log.start()
    log.close()
    assert count(metrics, "written") == 1 and landed(settings).num_rows == 20


def test_a_file_is_finished_in_time_while_the_server_goes_on_and_no_half_file_lands(
    settings: Settings, engine: Engine
) -> None:
    metrics = Metrics()
    log = ServedLog(settings, metrics)
    log.start()
    offer(log, engine)
    wait_until(lambda: len(files(settings)) == 1)
    [part] = files(settings)
    assert part.name.startswith(".") and part.name.endswith(".part")  # what a kill would leave
    assert not data_files(settings, "served", DAY)
    assert count(metrics, "written") == 0
    quick = ServedLog(
        settings.model_copy(update={"serve_log_minutes": 1e-6}), metrics
    )  # another process, in the same folder
    quick.start()
    offer(quick, engine)
    wait_until(lambda: count(metrics, "written") == 1)
    [whole] = data_files(settings, "served", DAY)
    assert len(gzip.decompress(whole.read_bytes()).splitlines()) == 20
    quick.close()
    log.close()
    assert count(metrics, "written") == 2 and landed(settings).num_rows == 40


def test_a_folder_that_cannot_be_written_costs_the_log_alone(logging: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with serving(logging.model_copy(update={"serve_log_dir": tmp_path / "file" / "log"}), poll_s=0.1) as url:
        for _ in range(2):
            assert httpx.post(f"{url}/rank", json=rank_body(ts=TS)).status_code == 200
        wait_until(lambda: 'served_log_total{outcome="failed"} 2.0' in httpx.get(f"{url}/metrics").text)


def test_what_would_not_land_is_not_logged(settings: Settings, engine: Engine) -> None:
    metrics = Metrics()
    log = ServedLog(settings, metrics)
    offer(log, engine, user="ü" * 200)  # the contract counts bytes
    offer(log, engine, ts="2020-01-01T00:00:00Z")
    log.start()
    log.close()
    assert (count(metrics, "unfit"), count(metrics, "outside"), count(metrics, "written")) == (1, 1, 0)


def test_numbers_come_back_as_they_were() -> None:
    rng = np.random.default_rng(1)
    floats = rng.integers(0, 2**32, 2000, dtype=np.uint32).view(np.float32)
    ids = rng.integers(0, 2**63 - 1, 2000)
    rows = [json.loads(text) for text in as_json({"x": floats, "id": ids, "v": floats.reshape(-1, 1)})]
    back = np.array([row["x"] for row in rows], dtype=np.float32)
    assert np.array_equal(back, np.where(np.isfinite(floats), floats, np.nan).astype(np.float32), equal_nan=True)
    assert [row["id"] for row in rows] == ids.tolist() and [row["v"] for row in rows] == [[row["x"]] for row in rows]


@pytest.mark.slow
def test_a_day_that_was_kept_long_enough_goes_with_its_rows_and_stays_away(settings: Settings, engine: Engine) -> None:
    old = DAY - timedelta(days=31)
    others = (*settings.optional_tables, *OTHERS)
    settings = settings.model_copy(update={"first_day": old, "optional_tables": others})
    log = ServedLog(settings, Metrics())
    log.start()
    offer(log, engine)
    offer(log, engine, ts=f"{old}T10:00:00Z")
    log.close()
    left = the(Path, settings.serve_log_dir) / f"day={DAY}" / ".served-killed.jsonl.gz.part"
    left.write_bytes(b"half")
    with Lake(settings) as lake:
        load_days(lake, settings, [old, DAY], {"homepage"}, ["served"])
        assert remove_served(lake, settings, timedelta(days=1), dry_run=True) == (1, 20)
        assert remove_served(lake, settings, timedelta(days=1)) == (1, 20)
        assert remove_served(lake, settings, timedelta(days=1)) == (0, 0) and left.exists()
        os.utime(left, (0, 0))
        assert remove_served(lake, settings, timedelta(days=1)) == (1, 0) and not left.exists()
        assert lake.sql("select day from lake.landing.served group by day")["day"].to_pylist() == [DAY]
    assert [path.parent.name for path in files(settings)] == [f"day={DAY}"]
    changes = changed_days(settings)
    assert not changes.ready and not changes.waiting


@pytest.mark.slow
def test_a_forgotten_person_is_in_no_file_and_no_row_of_the_log(settings: Settings, engine: Engine) -> None:
    log = ServedLog(settings, Metrics())
    log.start()
    offer(log, engine, user="u1")
    offer(log, engine, user="u2")
    log.close()
    assert set(landed(settings)["user_id"].to_pylist()) == {"u1", "u2"}
    told = forget(settings, "u1")
    assert told.rows["landing.served"] == told.file_rows == 20
    assert not [left for left in told.remains if "served" in left.place]
    assert set(landed(settings)["user_id"].to_pylist()) == {"u2"}


@pytest.mark.slow
def test_workers_write_files_of_their_own_a_killed_one_leaves_none_and_a_signal_ends_the_others(
    settings: Settings, ready_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSFADE_SERVE_LOG_SHARE", "1")
    monkeypatch.setenv("CROSSFADE_SERVE_LOG_DIR", str(settings.serve_log_dir))
    asked, ended = 0, False
    with suppress(RuntimeError), crossfade(ready_home.settings, words=("serve", "--workers", "2")) as (url, parent):

        def parts() -> list[Path]:
            nonlocal asked
            asked += 1
            assert httpx.post(f"{url}/rank", json=rank_body(user=f"u{asked}", ts=TS)).status_code == 200
            return files(settings)

        wait_until(lambda: len(parts()) == 2, 60)
        killed = min(one.pid for one in parent.children() if "multiprocessing.spawn" in " ".join(one.cmdline()))
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(parts()) == 3, 60)  # the one in its place
        assert not data_files(settings, "served", DAY)
        parent.send_signal(signal.SIGTERM)
        wait_until(lambda: len(data_files(settings, "served", DAY)) == 2, 60)
        assert sum(path.name.endswith(".part") for path in files(settings)) == 1
        rows = landed(settings)
        assert 0 < len(set(rows["request_id"].to_pylist())) < asked and rows.num_rows % 20 == 0
        ended = True
    assert ended
