"""The alert rules and the board name what the server exports, and the rules fire when they should."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy.serving.metrics import Metrics
from ml.foundation.settings import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
BOARD = json.loads((FOLDER / "board.json").read_text(encoding="utf-8"))
ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
OF_PROMETHEUS = {"instance", "job", "le"}


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in RULES)
    yield from (target["expr"] for panel in BOARD["panels"] for target in panel["targets"])
    yield BOARD["templating"]["list"][1]["query"]["query"]


def labels_of(expression: str) -> set[str]:
    matched = re.findall(r"[{,]\s*(\w+)\s*(?:=~|!=|!~|=)", expression)
    grouped = [name for group in re.findall(r"\b(?:by|on) \(([\w, ]*)\)", expression) for name in group.split(", ")]
    return {*matched, *grouped}


def test_every_metric_that_a_rule_or_the_board_names_is_one_that_the_server_exports(client: httpx.Client) -> None:
    families = dict(re.findall(r"^# TYPE (\w+) (\w+)$", client.get("/metrics").text, flags=re.MULTILINE))
    exported = {name.removesuffix("_total") + end for name, kind in families.items() for end in ENDINGS.get(kind, ())}
    named = {name for text in expressions() for name in re.findall(r"\bcrossfade_\w+", text)}
    assert len(named) > 12 and not named - exported


def test_every_label_that_a_rule_or_the_board_names_is_one_of_its_metric() -> None:
    of = {f"crossfade_{one._name.removeprefix('crossfade_')}": one._labelnames for one in metrics()}
    for text in expressions():
        names = [re.sub(r"_(total|bucket|sum|count)$", "", name) for name in re.findall(r"\bcrossfade_\w+", text)]
        known = OF_PROMETHEUS.union(*(of[name] for name in names))
        assert not labels_of(text) - known, text


def metrics() -> Iterator[Any]:
    yield from (one for one in vars(Metrics()).values() if hasattr(one, "_labelnames"))


def test_a_rule_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert all(rule["annotations"][name].strip() for name in ("summary", "description"))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, a part of Prometheus, is not on the PATH")
def test_the_rules_fire_when_they_should_and_are_silent_when_all_is_well(tmp_path: Path) -> None:
    for source in (FOLDER / "alerts.yaml", Path(__file__).parent / "rules.yaml"):
        shutil.copy(source, tmp_path)
    for words in (["check", "rules", "alerts.yaml"], ["test", "rules", "rules.yaml"]):
        done = subprocess.run(["promtool", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
