"""Pages of the tutorial, followed step by step: their blocks, executed in order in a copy of the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import polars as pl
import pytest

from benchmarks.process import free_port
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.releases.release import Release
from ml.releases.store import ReleaseStore
from ml.stages.evaluation import read_evaluation
from ml.surfaces.files import load_surfaces

pytestmark = pytest.mark.early

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial" / "your_app.md"
RATINGS = PAGE.with_name("ratings.md")
COPIED = ("assets", "checks", "dbt_project", "deploy", "examples", "ml", "uv.lock", "workspace.yaml")
MADE = ("landing", "model.onnx")
"""What the page's scripts write into the app's folder."""
BLOCK = re.compile(r"^```\w+ (?P<action>file|edit|run|serve)(?:=(?P<path>\S+))?\n(?P<text>.*?)^```$", re.M | re.S)


class Walk(NamedTuple):
    """What comes of doing what a page says: what was copied, printed and written, and how long each block took."""

    checkout: Path
    port: int
    copied: dict[str, dict[str, bytes]]
    printed: dict[str, str]
    seconds: dict[str, float]
    written: list[str]

    @property
    def told(self) -> str:
        """How long all of it took, and how many lines somebody wrote."""
        return f"{sum(self.seconds.values()):.0f} s, {len(self.written)} lines"


class Followed(NamedTuple):
    """What somebody has who followed the page: the app's folder, a home, and what each command printed."""

    app: Path
    checkout: Path
    copied: dict[str, dict[str, bytes]]
    settings: Settings
    printed: dict[str, str]
    ranked: dict[str, dict[str, Any]]
    walk: Walk


class Shell:
    """Runs commands one after the other in one environment, as somebody at a terminal does."""

    def __init__(self, checkout: Path, port: int, variables: Mapping[str, str], longest_s: float) -> None:
        self.checkout, self.port, self.state = checkout, port, checkout.parent / "exported"
        self.longest_s = longest_s
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(checkout),
            "PYTHONWARNINGS": "ignore",
            "COLUMNS": "200",
            "CROSSFADE_SERVE_PORT": str(port),
            **dict.fromkeys(("CROSSFADE_THREADS", "OMP_NUM_THREADS", "POLARS_MAX_THREADS"), "1"),
            **variables,
        }

    def run(self, text: str) -> str:
        """Run one block to its end and return what it printed."""
        result = subprocess.run(
            self._command(text), **self._where(), capture_output=True, text=True, timeout=self.longest_s
        )
        assert result.returncode == 0, f"{text}\n{result.stdout[-5000:]}\n{result.stderr[-5000:]}"
        return result.stdout + result.stderr

    @contextmanager
    def serve(self, text: str) -> Iterator[None]:
        """Run one block until the page has been followed to its end."""
        process = subprocess.Popen(self._command(text.replace(".venv", "exec .venv", 1)), **self._where())
        try:
            deadline = time.monotonic() + self.longest_s
            while not self._ready():
                assert process.poll() is None, f"{text} ended with {process.returncode}"
                assert time.monotonic() < deadline, f"{text} is not ready"
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/v2/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def _command(self, text: str) -> list[str]:
        before = f". {self.state}\n" if self.state.exists() else ""
        return ["bash", "-euc", f"{before}{text}\nexport -p > {self.state}"]

    def _where(self) -> dict[str, Any]:
        return {"cwd": self.checkout, "env": self.environment}


def edit(path: Path, text: str) -> None:
    """Apply a diff without line numbers: each hunk's old lines stand exactly once in the file."""
    content = "\n" + path.read_text(encoding="utf-8")
    for hunk in re.split(r"^@@\n", text, flags=re.M):
        lines = hunk.splitlines()
        old, new = ("\n".join(["", *(li[1:] for li in lines if li[:1] != drop), ""]) for drop in "+-")
        assert content.count(old) == 1, f"{path.name} has these lines {content.count(old)} times:{old}"
        content = content.replace(old, new)
    path.write_text(content[1:], encoding="utf-8")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    return follow(tmp_path_factory.mktemp("page"))


def follow(folder: Path, variables: Mapping[str, str] | None = None, longest_s: float = 400) -> Followed:
    """Do what the page says, and ask for two users besides; see ``walked``."""
    with walked(PAGE, folder, variables, longest_s) as walk:
        app = folder / "recipes"
        ranked = {user: rank(walk.port, user) for user in (user_of(app, "min"), user_of(app, "max"))}
    settings = Settings(home=walk.checkout / ".crossfade-recipes")
    return Followed(app, walk.checkout, walk.copied, settings, walk.printed, ranked, walk)


@contextmanager
def walked(
    page: Path, folder: Path, variables: Mapping[str, str] | None = None, longest_s: float = 400
) -> Iterator[Walk]:
    """Do what a page says, in a copy of the checkout; its server answers while the block runs.

    Args:
        page: The page.
        folder: An empty folder.
        variables: What is exported beside what the page exports.
        longest_s: What no block takes longer than.
    """
    checkout, port = folder / "checkout", free_port()
    checkout.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, checkout / name)
    copied = {name: contents(checkout / name) for name in COPIED}
    (checkout / ".venv").symlink_to(sys.prefix)
    walk = Walk(checkout, port, copied, {}, {}, [])
    shell = Shell(checkout, port, variables or {}, longest_s)
    with ExitStack() as running:
        for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
            text, path, began = block["text"], checkout / (block["path"] or ""), time.monotonic()
            match block["action"]:
                case "file":
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text, encoding="utf-8")
                    walk.written.extend(text.splitlines())
                case "edit":
                    edit(path, text)
                    walk.written.extend(line for line in text.splitlines() if line.startswith("+"))
                case "run":
                    walk.printed[text.strip()] = shell.run(text)
                case "serve":
                    running.enter_context(shell.serve(text))
            walk.seconds[text.strip()] = time.monotonic() - began
        yield walk


def contents(folder: Path) -> dict[str, bytes]:
    """Return what a file or a folder holds, but for what Python and the page's scripts write."""
    left_out = {*MADE, "__pycache__"}
    files = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
    named = {path.relative_to(folder): path for path in files}
    return {str(name): path.read_bytes() for name, path in named.items() if not left_out & set(name.parts)}


def landed(app: Path, table: str) -> pl.DataFrame:
    return pl.read_csv(app / "landing" / table / "day=2026-03-01" / "part-0.csv")


def user_of(app: Path, extreme: str) -> str:
    cards = landed(app, "source_user_profiles")
    card = cards.filter(pl.col("vegetable_share") == getattr(cards["vegetable_share"], extreme)())["source_user_id"][0]
    return card.replace("card", "u")


def rank(port: int, user: str) -> dict[str, Any]:
    request = {
        "surface": "suggestions",
        "user_id": user,
        "guests": 2,
        "hour": 18,
        "candidates": [{"item_id": f"r{n}"} for n in range(50)],
    }
    return httpx.post(f"http://127.0.0.1:{port}/rank", json=request).raise_for_status().json()


def release_of(followed: Followed) -> Release:
    champion = ReleaseStore(followed.settings.artifacts_dir).champion("suggestions")
    assert champion is not None
    return champion.release


def test_the_surface_has_a_release_whose_teacher_is_the_pages_own(followed: Followed) -> None:
    release = release_of(followed)
    teacher = release.manifest.teacher
    assert teacher is not None
    assert (teacher.name, teacher.version, teacher.outputs) == ("kit-orders", "2026-02", ("orders",))
    assert [day.day for day in release.manifest.train_days] == [1, 2, 3]
    assert [day.day for day in release.manifest.eval_days] == [4, 5]
    assert release.verdict.decision == "pass"
    assert str(release.verdict.guard("slices").outcome) == "warn"
    shown = next(text for command, text in followed.printed.items() if command.endswith("release show suggestions"))
    assert "kit-orders 2026-02" in shown and "verdict of" in shown and release.id in shown


def test_the_pages_teacher_lifts_the_student_above_its_control(followed: Followed) -> None:
    release = release_of(followed)
    evaluation = read_evaluation(followed.settings, load_surfaces(followed.settings)["suggestions"], date(2026, 3, 6))
    lift = evaluation.difference("student", "control", "cooked")
    assert release.manifest.kind == "student"
    assert lift.lo > 0, lift
    card = (release.path / "model_card.html").read_text(encoding="utf-8")
    assert "control" in card and "student" in card


@pytest.mark.parametrize(("path", "left_out"), [(PAGE, ["make install\nmake dev"]), (RATINGS, [])])
def test_every_block_but_the_installation_is_followed_and_files_are_introduced_by_their_path(
    path: Path, left_out: list[str]
) -> None:
    page = path.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(page))
    assert page.count("```") == 2 * (len(blocks) + len(left_out))
    assert all(f"```sh\n{text}" in page for text in left_out)
    for block in blocks:
        if block["path"]:
            prose = page[: block.start()].rsplit("```", 1)[-1]
            assert f"`{block['path']}`" in prose, block["path"]


def test_the_home_keeps_its_settings_without_the_exported_ones(followed: Followed) -> None:
    settings, app = followed.settings, followed.app
    assert settings.source == "files" and str(settings.last_day) == "2026-03-06"
    assert settings.surfaces_dir == app / "surfaces"
    assert settings.teacher == app / "teacher" / "contract.yaml"
    assert (settings.home / "crossfade.toml").read_text(encoding="utf-8") == f'app = "{app}"\n'


def test_what_is_the_apps_lies_in_its_folder_and_nothing_else_does(followed: Followed) -> None:
    """The finished app is shipped; neither dbt nor a run leaves anything in it, or in the checkout."""
    shipped, made = (contents(folder) for folder in (ROOT / "examples" / "recipes", followed.app))
    assert made == shipped
    assert {name: contents(followed.checkout / name) for name in COPIED} == followed.copied


def test_a_quarter_of_the_teachers_inputs_is_defaulted(followed: Followed) -> None:
    with Lake(followed.settings) as lake:
        rows = lake.sql(
            "select count(*) as n, min(defaulted_inputs) as lo, max(defaulted_inputs) as hi "
            "from lake.ml.soft_labels_suggestions"
        )
    row = rows.to_pylist()[0]
    assert row["n"] > 3000 and (row["lo"], row["hi"]) == (1, 1)


def test_the_server_ranks_and_the_planted_taste_shows(followed: Followed) -> None:
    asked = next(text for command, text in followed.printed.items() if command.endswith("ask.py")).splitlines()
    assert release_of(followed).id in asked[0] and len(asked) == 6
    kits = landed(followed.app, "source_item_profiles")
    share = dict(kits.select("source_item_id", "vegetable_share").iter_rows())
    greener = []
    for answer in followed.ranked.values():
        scores = [item["score"] for item in answer["items"]]
        assert len(scores) == 50 and scores == sorted(scores, reverse=True)
        assert answer["release"] == release_of(followed).id and answer["feature_day"] == "2026-03-06"
        greens = [share[item["item_id"].replace("r", "kit")] for item in answer["items"]]
        greener.append(np.mean(greens[:10]) - np.mean(greens[-10:]))
    hearty, vegetarian = greener
    assert vegetarian > 0.2 > -0.2 > hearty, json.dumps(greener)


def test_the_table_of_rankings_has_the_servers_order_and_scores(followed: Followed) -> None:
    with Lake(followed.settings) as lake:
        rows = pl.DataFrame(lake.sql("select * from lake.ml.rankings_suggestions order by user_id, rank"))
    assert len(rows) == 200 * 10 and set(rows["release"]) == {release_of(followed).id}
    for user, answer in followed.ranked.items():
        own, first = rows.filter(pl.col("user_id") == user), answer["items"][:10]
        assert own["item_id"].to_list() == [item["item_id"] for item in first]
        for name in ("score", "cooked", "rating"):
            np.testing.assert_allclose(own[name], [item[name] for item in first], atol=1e-5)


@pytest.mark.long
def test_the_page_holds_where_postgres_has_catalog_and_runs_and_s3_the_data(
    tmp_path: Path, servers: dict[str, str], record_property: Callable[[str, object], None]
) -> None:
    made = follow(tmp_path, servers, longest_s=3000)
    urls = {name.removeprefix("CROSSFADE_").lower(): url for name, url in servers.items()}
    settings = made.settings.model_validate(made.settings.model_dump() | urls)
    champion = ReleaseStore.of(settings).champion("suggestions")
    assert champion is not None
    assert {answer["release"] for answer in made.ranked.values()} == {champion.release.id}
    with Lake(settings) as lake:
        rows = pl.DataFrame(lake.sql("select * from lake.ml.rankings_suggestions"))
    assert len(rows) == 200 * 10 and set(rows["release"]) == {champion.release.id}
    assert not list(settings.home.rglob("*.parquet")), "the data are in the bucket"
    record_property("followed", made.walk.told)


@pytest.mark.long
def test_the_page_of_ratings_leads_from_a_log_to_an_answer(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with walked(RATINGS, tmp_path, longest_s=3000) as walk:
        asked = walk.printed[".venv/bin/python ../films/ask.py"].splitlines()
    assert len(asked) == 5 and len({line.split()[0] for line in asked}) == 5
    champion = ReleaseStore(walk.checkout / ".crossfade-films" / "artifacts").champion("films")
    assert champion is not None and champion.release.verdict.decision == "pass"
    teacher = champion.release.manifest.teacher
    assert teacher is not None and teacher.name == "bookshop"
    record_property("followed", walk.told)
    record_property("seconds", walk.seconds)
