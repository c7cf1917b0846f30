"""Files lie in object stores: listed, marked, changed and refused as local ones are."""

import gzip
import json
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import obstore
import polars as pl
import pytest
from obstore.store import from_url

from deploy.cli.doctor import EXAMINATIONS, State
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from ml.landing.changes import changed_days
from ml.landing.contract import LandingError
from ml.landing.load import DayIncomplete, init_tables, load_days
from ml.landing.readers import UnreadableFile
from ml.landing.readiness import missing
from tests.ml.landing.rows import ALL_TABLES, DAY, SURFACES, listens, to_csv, to_parquet

pytestmark = pytest.mark.slow

NEXT = DAY + timedelta(days=1)
Put = Callable[[str, bytes], None]


class _Store(BaseHTTPRequestHandler):
    """The part of Azure's and Google's interfaces by which files are listed and read, on a dictionary."""

    objects: ClassVar[dict[str, tuple[bytes, float]]] = {}

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(asked.query, keep_blank_values=True).items()}
        key = unquote(asked.path).split("/bucket", 1)[-1].lstrip("/")
        if "prefix" in query or "comp" in query or "list-type" in query:
            self._answer(self._listing(query.get("prefix", ""), azure="comp" in query))
        elif key in self.objects:
            self._answer(self.objects[key][0])
        else:
            self.send_error(404)

    def _listing(self, prefix: str, *, azure: bool) -> bytes:
        found = {key: value for key, value in sorted(self.objects.items()) if key.startswith(prefix)}
        if azure:
            blobs = "".join(
                f"<Blob><Name>{escape(key)}</Name><Properties><Last-Modified>{self.date_time_string(at)}</Last-Modified>"
                f"<Content-Length>{len(content)}</Content-Length><Content-Type>x</Content-Type>"
                f"<Etag>{hash(content)}</Etag></Properties></Blob>"
                for key, (content, at) in found.items()
            )
            return f"<?xml version='1.0'?><EnumerationResults><Blobs>{blobs}</Blobs></EnumerationResults>".encode()
        stamp = {key: time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at)) for key, (_, at) in found.items()}
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{stamp[key]}</LastModified>"
            f"<ETag>{hash(content)}</ETag><Size>{len(content)}</Size></Contents>"
            for key, (content, _) in found.items()
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()

    def _answer(self, content: bytes) -> None:
        self.send_response(200)
        for name, value in {
            "Content-Length": str(len(content)),
            "Last-Modified": self.date_time_string(),
            "ETag": f'"{hash(content)}"',
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def other() -> Iterator[str]:
    """A server that speaks what is needed of Azure and Google; its address."""
    _Store.objects.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Store)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(params=["s3", "gs", "az"])
def bucket(
    request: pytest.FixtureRequest, s3: str, other: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[str, Put]:
    """The address of an empty place in a bucket, and what puts an object there."""
    if request.param == "s3":
        store, prefix = from_url(s3, client_options={"allow_http": True}), tmp_path.name

        def put(key: str, content: bytes) -> None:
            obstore.put(store, f"{prefix}/{key}", content)

        return f"{s3}/{prefix}", put
    if request.param == "gs":
        key = {
            "gcs_base_url": other,
            "disable_oauth": True,
            "client_email": "",
            "private_key": "",
            "private_key_id": "",
        }
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(key))
        monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
    else:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{other}/account")
        monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
        monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")

    def put_there(key: str, content: bytes) -> None:
        _Store.objects[f"app/{key}"] = content, time.time()

    return f"{request.param}://bucket/app", put_there


def settings_of(tmp_path: Path, source: dict[str, object], **given: object) -> Settings:
    (tmp_path / "app").mkdir(exist_ok=True)
    (tmp_path / "app" / "sources.yaml").write_text(json.dumps({"tables": {"listens": source}}))
    told = {"optional_tables": ALL_TABLES, "max_quarantine_share": 1.0, "threads": 1, **given}
    return Settings(home=tmp_path / "home", app=tmp_path / "app", first_day=DAY, **told)


def of(day: date, prefix: str) -> pl.DataFrame:
    return listens(prefix).with_columns(ts=pl.lit(f"{day}T10:00:00Z"))


def ready(settings: Settings) -> list[date]:
    with Lake(settings) as lake:
        init_tables(lake)
    return list(changed_days(settings).ready)


def test_days_land_from_a_bucket_are_seen_once_and_seen_again_when_an_object_changes(
    bucket: tuple[str, Put], tmp_path: Path
) -> None:
    url, put = bucket
    settings = settings_of(tmp_path, {"files": url + "/{table}/dt={day}/**/*.csv*", "ready": {"marker": "_DONE"}})
    assert ready(settings) == []
    put(f"listens/dt={DAY}/a.csv", to_csv(of(DAY, "a")))
    put(f"listens/dt={DAY}/hour=10/b.csv.gz", gzip.compress(to_csv(of(DAY, "b"))))
    put(f"listens/dt={DAY}/_a.csv", b"being written")
    put(f"listens/dt={NEXT}/c.csv", to_csv(of(NEXT, "c")))
    assert ready(settings) == [] and set(changed_days(settings).waiting) == {DAY, NEXT}
    assert missing(settings, DAY) == [f"listens: no {url}/listens/dt={DAY}/_DONE"]
    for day in (DAY, NEXT):
        put(f"listens/dt={day}/_DONE", b"")
    assert ready(settings) == [DAY, NEXT]
    with Lake(settings) as lake:
        reports = load_days(lake, settings, [DAY, NEXT], SURFACES, tables=["listens"])
        found = lake.connection.execute(f"select day, listen_id from {ALIAS}.landing.listens order by all").fetchall()
    assert found == [*((DAY, name) for name in ("a0", "a1", "b0", "b1")), (NEXT, "c0"), (NEXT, "c1")]
    assert reports[0].files == (f"{url}/listens/dt={DAY}/a.csv", f"{url}/listens/dt={DAY}/hour=10/b.csv.gz")
    assert ready(settings) == []
    put(f"listens/dt={NEXT}/c.csv", to_csv(of(NEXT, "d")))
    assert ready(settings) == [NEXT]
    assert EXAMINATIONS["sources"](settings) == (State.GOOD, "listens can be listed")


def test_a_bucket_is_ready_after_silence_and_an_empty_day_by_its_marker(
    bucket: tuple[str, Put], tmp_path: Path
) -> None:
    url, put = bucket
    settings = settings_of(tmp_path, {"files": url + "/{table}/{day}/*.parquet"}, quiet_minutes=30)
    put(f"listens/{DAY}/a.parquet", to_parquet(listens("a")))
    put(f"listens/{NEXT}/_SUCCESS", b"")
    now = time.time()
    [told] = missing(settings, DAY, now + 60)
    assert f"no {url}/listens/{DAY}/_SUCCESS, and the last change is " in told
    assert missing(settings, DAY, now + 32 * 60) == [] and missing(settings, NEXT, now) == []
    with Lake(settings) as lake:
        reports = load_days(lake, settings, [DAY, NEXT], SURFACES, tables=["listens"])
    assert [report.rows_loaded for report in reports] == [2, 0]


def test_objects_that_cannot_be_read_or_unpack_too_far_are_refused_by_their_address(
    bucket: tuple[str, Put], tmp_path: Path
) -> None:
    url, put = bucket
    settings = settings_of(tmp_path, {"files": url + "/{day}/*"}, max_unpacked_mb=1)
    put(f"{DAY}/a.parquet", b"no such thing")
    put(f"{NEXT}/bomb.csv.gz", gzip.compress(b"listen_id\n" + b"0" * (64 << 20)))
    for day, told in ((DAY, f"cannot read {url}/{DAY}/a.parquet: "), (NEXT, "bomb.csv.gz: it unpacks to more than")):
        with Lake(settings) as lake, pytest.raises(UnreadableFile) as refused:
            load_days(lake, settings, [day], SURFACES, tables=["listens"])
        assert told in str(refused.value) and str(tmp_path) not in str(refused.value)
    required = settings.model_copy(update={"optional_tables": ()})
    with Lake(required) as lake, pytest.raises(DayIncomplete, match=f"no _SUCCESS, such as in {url}/2026-02-01/"):
        load_days(lake, required, [date(2026, 2, 1)], SURFACES, tables=["listens"])


def test_a_bucket_that_cannot_be_reached_names_itself_and_its_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sesame-1")
    settings = settings_of(tmp_path, {"files": "s3://none/{table}/{day}/*.csv"})
    state, told, *_ = EXAMINATIONS["sources"](settings)
    assert state == State.BAD and "listens: s3://none/listens cannot be read: " in told
    assert "from the AWS_* variables" in told and "sesame" not in told
    with Lake(settings) as lake, pytest.raises(LandingError, match=r"from the AWS_\* variables"):
        load_days(lake, settings, [DAY], SURFACES, tables=["listens"])
