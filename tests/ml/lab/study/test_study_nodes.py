"""A study on the nodes of a Ray cluster measures what it measures on the cores of one machine."""

import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ml.foundation.cluster import ClusterError
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.lab.study.design import Design, load_design
from ml.lab.study.run import TRIALS_TABLE, Progress, run_study

STUDY = """
{name}:
  description: Small worlds.
  preset: tiny
  surfaces_dir: tests/surfaces
  seeds: [1]
  surfaces: [radio]
  parts:
    - {{worlds: {worlds}, variants: [student]}}
"""


def design_of(folder: Path, name: str, worlds: list[int]) -> Design:
    path = folder / f"{name}.yaml"
    path.write_text(STUDY.format(name=name, worlds=worlds), encoding="utf-8")
    return load_design(name, path)


def held(settings: Settings) -> dict[tuple[str, ...], float]:
    with Lake(settings) as lake:
        rows = lake.sql(f"select trial, task, slice, metric, value from lake.{TRIALS_TABLE}").to_pylist()
    found = {(row["trial"], row["task"], row["slice"], row["metric"]): row["value"] for row in rows}
    assert len(found) == len(rows), "a trial is in the lake twice"
    return found


def workers() -> list[psutil.Process]:
    """The processes of nodes that work on a world."""
    return [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [""])[0].startswith("ray::_on_node")]


@pytest.mark.long
def test_worlds_on_two_nodes_are_those_of_one_machine_although_a_worker_is_killed(
    two_nodes: Any, tmp_path: Path
) -> None:
    on_nodes = Settings(home=tmp_path / "nodes", ray_address=two_nodes.address)
    alone = Settings(home=tmp_path / "alone")
    killed: list[int] = []

    def kill_one() -> None:
        while not killed:
            time.sleep(0.5)
            if len(found := workers()) == 2:
                time.sleep(8)
                found[0].kill()
                killed.append(found[0].pid)

    threading.Thread(target=kill_one, daemon=True).start()
    seen: list[Progress] = []
    trials = run_study(on_nodes, design_of(tmp_path, "both", [7, 8]), report=seen.append)
    assert killed, "two workers were never at work at once"
    assert len(trials) == 6 and (seen[-1].done, seen[-1].total) == (6, 6)
    expected = run_study(alone, design_of(tmp_path, "one", [7]), workers=1)
    both, one = held(on_nodes), held(alone)
    assert len(expected) == 3 and set(expected) < set(trials)
    assert one == {key: value for key, value in both.items() if key[0] in expected}


def test_a_cluster_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", ray_address="127.0.0.1:9")
    with pytest.raises(ClusterError, match=r"CROSSFADE_RAY_ADDRESS=127\.0\.0\.1:9 cannot be reached"):
        run_study(settings, design_of(tmp_path, "one", [7]))
