"""Labelling on Ray: two nodes of this machine give the bits of one process, whatever is lost on the way."""

import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import psutil
import pyarrow as pa
import pytest

from assets.names import surface_key
from assets.progress import ProgressResource
from assets.soft_labels import build_soft_labels
from ml.foundation.cluster import ClusterError, connected
from ml.foundation.lake import Lake
from ml.foundation.progress import Step
from ml.foundation.quiet import QUIET
from ml.foundation.settings import Settings
from ml.surfaces.files import load_surfaces
from ml.teacher import labels
from ml.teacher.columns import InputColumns
from ml.teacher.contract import Contract, load_contract
from ml.teacher.labels import LabelError, LabelReport, label_days
from ml.teacher.nodes import on_nodes, pack, unpack
from ml.teacher.refused import TeacherRefused
from ml.teacher.runtime import open_teacher
from ml.teacher.scoring import on_threads
from tests.support.commands import ROOT

pytestmark = pytest.mark.early

Write = Callable[..., Any]

SLOW_GRAPH = """
<ir_version: 9, opset_import: ["" : 17]>
slow (int64[n] user, float[n, 1] age, float[n, 3] taste) => (float[n] click, float[n, 1] shares) {
    user_f = Cast <to = 1> (user)
    axis = Constant <value = int64[1] {1}> ()
    column = Unsqueeze (user_f, axis)
    small = Constant <value = float {1e-4}> ()
    scaled = Mul (column, small)
    aged = Add (scaled, age)
    wide = Constant <value = int64[2] {3, 2048}> ()
    square = Constant <value = int64[2] {2048, 2048}> ()
    first = ConstantOfShape <value = float[1] {0.01}> (wide)
    second = ConstantOfShape <value = float[1] {0.0005}> (square)
    tasted = MatMul (taste, first)
    mixed = Add (tasted, aged)
    one = Tanh (mixed)
    two_sum = MatMul (one, second)
    two = Tanh (two_sum)
    mean = ReduceMean <axes = [1], keepdims = 1> (two)
    shares = Sigmoid (mean)
    click = Squeeze (mean, axis)
}
"""
"""A teacher that takes long enough over a batch for something to be lost meanwhile."""

SLOW_OUTPUTS = [{"task": "click", "kind": "logit"}, {"task": "seen", "kind": "probability", "output": "shares"}]


@pytest.fixture
def slow(teacher_folder: Write, monkeypatch: pytest.MonkeyPatch) -> Contract:
    monkeypatch.setattr(labels, "BATCH_ROWS", 128)
    return load_contract(teacher_folder(SLOW_GRAPH, outputs=SLOW_OUTPUTS))


def label_on(cluster: Any, lake: Lake, settings: Settings, contract: Contract, days: list[date]) -> LabelReport:
    on_ray = settings.model_copy(update={"ray_address": cluster.address})
    ours = signal.getsignal(signal.SIGTERM)
    handlers: list[object] = []

    def told(step: Step) -> None:
        handlers.append(signal.getsignal(signal.SIGTERM))

    report = label_days(lake, on_ray, "home", contract, days, told)
    assert handlers and set(handlers) == {ours}, "Dagster ends a run with this signal"
    assert sum(report.rows_by_node.values()) == report.rows == report.examples
    return report


def content(report: LabelReport) -> list[tuple[int, str]]:
    return [(day.rows, day.content_hash) for day in report.days]


def processes_of(node: Any) -> list[psutil.Process]:
    return psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True)


def when_it_scores(node: Any, then: Callable[[psutil.Process], None]) -> threading.Thread:
    """Do something about the worker of ``node`` that is in the middle of a batch."""

    def watch() -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            for process in processes_of(node):
                try:
                    if "_score" in process.name() + " ".join(process.cmdline()):
                        return then(process)
                except psutil.Error:
                    continue
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_head_reports_nowhere_that_it_reports_nothing() -> None:
    from ray._common.usage.usage_lib import _usage_stats_report_url

    assert _usage_stats_report_url() == QUIET["RAY_USAGE_STATS_REPORT_URL"]
    assert urlsplit(_usage_stats_report_url()).hostname == "127.0.0.1"


def test_two_nodes_give_the_bits_of_one_process_and_each_says_what_it_scored(
    two_nodes: Any, lake: Lake, settings: Settings, slow: Contract, write_inputs: Write, days: list[date]
) -> None:
    write_inputs(days, rows=600)
    alone = label_days(lake, settings, "home", slow, days)
    table = lake.content_hash("lake.ml.soft_labels_home")
    together = label_on(two_nodes, lake, settings, slow, days)
    assert content(together) == content(alone) and lake.content_hash("lake.ml.soft_labels_home") == table
    assert len(together.rows_by_node) == 2 and min(together.rows_by_node.values()) > 100
    assert (together.defaulted_inputs, together.outputs) == (alone.defaulted_inputs, alone.outputs)
    assert alone.rows_by_node == {}


def test_a_worker_that_is_killed_costs_only_its_batch(
    two_nodes: Any, lake: Lake, settings: Settings, slow: Contract, write_inputs: Write, days: list[date]
) -> None:
    write_inputs(days, rows=600)
    alone = label_days(lake, settings, "home", slow, days)
    killed: list[int] = []

    def kill(process: psutil.Process) -> None:
        process.send_signal(signal.SIGKILL)
        killed.append(process.pid)

    watch = when_it_scores(two_nodes.head_node, kill)
    together = label_on(two_nodes, lake, settings, slow, days)
    watch.join()
    assert killed and content(together) == content(alone)


def test_a_node_that_is_lost_costs_only_its_batches(
    two_nodes: Any, lake: Lake, settings: Settings, slow: Contract, write_inputs: Write, days: list[date]
) -> None:
    write_inputs(days, rows=600)
    alone = label_days(lake, settings, "home", slow, days)
    node = two_nodes.worker_nodes.copy().pop()
    lost: list[int] = []

    def lose(process: psutil.Process) -> None:
        two_nodes.remove_node(node, allow_graceful=False)
        lost.append(process.pid)

    watch = when_it_scores(node, lose)
    together = label_on(two_nodes, lake, settings, slow, days)
    watch.join()
    assert lost and content(together) == content(alone)


@pytest.mark.parametrize("from_elsewhere", [False, True])
def test_a_worker_needs_no_file_of_the_home(
    from_elsewhere: bool, two_nodes: Any, lake: Lake, teacher_folder: Write, write_inputs: Write, days: list[date]
) -> None:
    contract = load_contract(teacher_folder())
    rows = write_inputs(days[:1])[days[0]]
    names = {"exposure_id": "BIGINT", "user": "BIGINT", "age": "DOUBLE", "taste": "FLOAT[]"}
    columns = InputColumns(contract.inputs, names, "rows")
    known = {"user is missing": rows["user"] < 0}
    batch = pa.record_batch({k: pa.array(list(v) if v.ndim == 2 else v) for k, v in (rows | known).items()})
    batch = batch.set_column(2, "age", batch["age"].cast(pa.float32()))
    here = [part.scores for _, part in on_threads(open_teacher(contract), columns, 1)([("k", batch)])]
    address = two_nodes.client_address if from_elsewhere else two_nodes.address
    with on_nodes(address, contract, columns) as scored:
        shutil.rmtree(contract.folder)
        there = [(key, part.scores) for key, part in scored([("k", batch)])]
    assert there[0][0] == "k" and there[0][1].tobytes() == here[0].tobytes()


def test_a_teacher_whose_bytes_changed_on_the_way_is_refused(teacher_folder: Write) -> None:
    packed = pack(load_contract(teacher_folder()))
    unpack(packed).close()
    (name, content), *_ = packed.files.items()
    other = content.replace(b"user_sin", b"user_son")
    assert other != content
    with pytest.raises(TeacherRefused, match=f"'small' '1' came to .* it left with {packed.contract_hash}"):
        unpack(replace(packed, files={name: other}))
    with pytest.raises(TeacherRefused, match="'onnxruntime': '0'"):
        unpack(replace(packed, versions={"onnxruntime": "0"}))


def test_what_a_worker_refuses_is_told_as_in_one_process_and_no_row_is_written(
    two_nodes: Any, lake: Lake, settings: Settings, teacher_folder: Write, write_inputs: Write, days: list[date]
) -> None:
    contract = load_contract(teacher_folder())
    write_inputs(days[:1], taste=lambda rows: pa.array([[0.5, 0.5]] * rows))
    messages = []
    for address in (None, two_nodes.address):
        with pytest.raises(ValueError, match="has 2 values, the teacher's contract says 3") as refused:
            label_days(lake, settings.model_copy(update={"ray_address": address}), "home", contract, days[:1])
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert lake.content_hash("lake.ml.soft_labels_home")[0] == 0
    write_inputs(days[:1], age=lambda rows: pa.array([float("inf")] * rows))
    with pytest.raises(LabelError, match="output 'click' of exposure"):
        label_on(two_nodes, lake, settings, contract, days[:1])


def test_the_asset_tells_the_rows_of_each_node_and_gives_the_demos_labels(
    two_nodes: Any, tiny_demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "BATCH_ROWS", 128)
    monkeypatch.setenv("CROSSFADE_SURFACES_DIR", str(ROOT / "tests" / "surfaces"))
    settings = Settings(home=tiny_demo, threads=1, ray_address=two_nodes.address)
    with Lake(settings) as lake:
        before = lake.content_hash("lake.ml.soft_labels_homepage")
        last = lake.sql("select max(day) as day from lake.ml.soft_labels_homepage")["day"][0].as_py()
    tags = {
        "dagster/asset_partition_range_start": settings.first_day.isoformat(),
        "dagster/asset_partition_range_end": last.isoformat(),
    }
    [asset] = build_soft_labels(settings, load_surfaces(settings)["homepage"])
    resources = {"settings": settings, "progress": ProgressResource()}
    done = dg.materialize([asset], resources=resources, tags=tags)
    shown = done.asset_materializations_for_node(asset.op.name)[-1].metadata
    by_node: Any = shown["rows_by_node"].value
    assert len(by_node) == 2 and sum(by_node.values()) == shown["rows"].value == before[0]
    assert all(node.startswith(socket.gethostname()) for node in by_node)
    with Lake(settings) as lake:
        assert lake.content_hash("lake.ml.soft_labels_homepage") == before
    assert surface_key("homepage", "soft_labels") in asset.keys


def test_nothing_listens_beyond_loopback(two_nodes: Any) -> None:
    heads = [process for process in psutil.process_iter() if process.ppid() in (os.getpid(), 1)]
    seen = 0
    for process in {p for head in heads for p in (head, *head.children(recursive=True))}:
        try:
            if "ray" not in " ".join(process.cmdline()):
                continue
            for connection in process.net_connections():
                if connection.status == psutil.CONN_LISTEN:
                    seen += 1
                    assert connection.laddr.ip.removeprefix("::ffff:") == "127.0.0.1", process.cmdline()
        except psutil.NoSuchProcess:
            continue
    assert seen > 4


def test_without_ray_or_without_a_cluster_the_error_names_the_setting_and_no_row_is_written(
    lake: Lake,
    settings: Settings,
    teacher_folder: Write,
    write_inputs: Write,
    days: list[date],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contract = load_contract(teacher_folder())
    write_inputs(days)
    nowhere = settings.model_copy(update={"ray_address": "127.0.0.1:9"})
    with pytest.raises(ClusterError, match=r"CROSSFADE_RAY_ADDRESS=127\.0\.0\.1:9 cannot be reached: .*refused"):
        label_days(lake, nowhere, "home", contract, days)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"ray is not installed here: run `\.venv/bin/pip install -e '\.\[ray\]'`"):
        label_days(lake, nowhere, "home", contract, days)
    assert lake.content_hash("lake.ml.soft_labels_home")[0] == 0
    with pytest.raises(ValueError, match="somewhere"):
        Settings(home=settings.home, ray_address="somewhere")


def test_usage_is_reported_to_nobody_by_a_worker_either(two_nodes: Any) -> None:
    with connected(two_nodes.address) as ray:
        assert QUIET.items() <= ray.get(ray.remote(lambda: dict(os.environ)).remote()).items()


def test_a_failed_connection_leaves_nothing_behind_that_breaks_the_next_one(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.util.client.worker.INITIAL_TIMEOUT_SEC", 0.1)  # Ray's own, of the first of its tries
    with pytest.raises(ClusterError, match="cannot be reached"), connected(f"ray://{cluster.address}"):
        pass
    with connected(cluster.address) as ray:
        assert ray.get(ray.put("here")) == "here"


def test_a_head_that_loses_the_process_of_a_client_is_asked_again_and_not_for_ever(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.util.client.worker import Worker

    init, lost = Worker._server_init, [True, False, True, True, True]

    def loses(worker: Any, *args: Any) -> None:
        if lost.pop(0):
            raise ConnectionAbortedError("Starting Ray client server failed")
        init(worker, *args)

    monkeypatch.setattr(Worker, "_server_init", loses)
    with connected(cluster.client_address) as ray:
        assert ray.get(ray.put("here")) == "here"
    with pytest.raises(ClusterError, match="Starting Ray client server failed"), connected(cluster.client_address):
        pass
    assert lost == []
