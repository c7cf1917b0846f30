"""Labelling on two Ray nodes of this machine against one process with one thread and with two.

Run: ``python -m benchmarks.nodes [--rows 200000] [--days 5] [--repeats 3] [--bottom 1024 1024]``. Both nodes have one
CPU and share this machine's cores with the labelling, which reads rows and writes labels: what is seen is the price
of sending rows and scores, not what more machines give. Timed as in ``benchmarks.labelling``, from opening the teacher
to the commit; connecting and opening the teacher on the nodes are in it. Ways take turns, each in a fresh process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.labelling import FIRST_DAY, peak_megabytes, prepare
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.teacher.contract import load_contract
from ml.teacher.labels import label_days

SURFACE = "large"
NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 200 * 2**20}


def measure(home: Path, days: int, threads: int, address: str | None) -> dict[str, Any]:
    """Label every day once and return what it took."""
    settings = Settings(home=home, first_day=FIRST_DAY, threads=threads, ray_address=address)
    contract = load_contract(Path(str(settings.teacher)))
    with Lake(settings) as lake:
        report = label_days(lake, settings, SURFACE, contract, [FIRST_DAY + timedelta(days=d) for d in range(days)])
    return {
        "rows_per_second": report.rows_per_second,
        "peak_mb": peak_megabytes(),
        "rows_by_node": sorted(report.rows_by_node.values()),
        "hashes": [day.content_hash for day in report.days],
    }


def main() -> None:
    """Record seconds per million rows of each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--days", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bottom", type=int, nargs="+", help="widths of the teacher's bottom; default the demo's")
    parser.add_argument("--quick", action="store_true", help="nothing recorded")
    parser.add_argument("--measure", nargs=3, metavar=("HOME", "THREADS", "ADDRESS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        home, threads, address = given.measure
        print(json.dumps(measure(Path(home), given.days, int(threads), None if address == "-" else address)))
        return
    # Nothing listens beyond loopback.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    cluster.add_node(**NODE)
    ways = {"one thread": ("1", "-"), "two threads": ("2", "-"), "two nodes": ("1", cluster.address)}
    hashes = set()

    def spawn(way: str) -> float:
        command = [sys.executable, "-m", "benchmarks.nodes", "--days", str(given.days), "--measure", folder, *ways[way]]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = json.loads(output.splitlines()[-1])
        hashes.add(tuple(found["hashes"]))
        told = f"{found['rows_per_second']:>9,.0f} rows/s, peak {found['peak_mb']:,.0f} MB"
        print(f"{way:12} {told} {found['rows_by_node'] or ''}", flush=True)
        return 1e6 / found["rows_per_second"]

    with tempfile.TemporaryDirectory(prefix="crossfade-nodes-") as folder:
        print(f"a teacher of {prepare(Path(folder), given.rows, given.days, given.bottom, {SURFACE: 1}):,} parameters")
        taken = record.interleaved({way: partial(spawn, way) for way in ways}, given.repeats)
    cluster.shutdown()
    if len(hashes) > 1:
        raise SystemExit(f"{len(hashes)} different tables; one was expected")
    rows = record.rows(taken, size=given.rows, of="rows", unit="s / M rows", reference="one thread")
    record.keep("nodes", rows, None if given.quick else record.HISTORY)


if __name__ == "__main__":
    main()
