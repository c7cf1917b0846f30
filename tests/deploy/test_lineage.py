"""What a release was made of can be told, and made again, from the home that the demo left."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli.main import app
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.operations.reproduce import NotReproducible, reproduce
from ml.operations.trace import as_page, difference, find_release, trace
from ml.releases.release import Release
from ml.releases.store import ReleaseStore
from tests.support.commands import home_environment
from tests.support.pages import as_shown

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def settings(tiny_demo: Path) -> Settings:
    return Settings(home=tiny_demo, surfaces_dir=ROOT / "tests" / "surfaces", threads=1)


@pytest.fixture(scope="module")
def release(settings: Settings) -> Release:
    return find_release(ReleaseStore(settings.artifacts_dir), "homepage")


def test_the_release_asset_tells_the_history_of_champions(settings: Settings, release: Release) -> None:
    from assets.release import champion_history

    log = ReleaseStore(settings.artifacts_dir).history("homepage")
    heading, _, newest, *older = champion_history(log).splitlines()
    assert heading.startswith("| at (UTC) | release |")
    assert f"| {release.id} | promote | dagster run " in newest
    assert not older


def test_the_lineage_of_a_release_reaches_snapshot_rows_landed_files_and_teacher(
    settings: Settings, release: Release
) -> None:
    nodes = {node.title: node for _, node in trace(settings, release).walk()}
    manifest = release.manifest
    assert nodes["training set"].facts["lake snapshot"] == str(manifest.snapshot)
    assert [row["content hash"] for row in nodes["examples"].rows] == [day.content_hash for day in manifest.examples]
    assert len(nodes["soft labels"].rows) == len(manifest.train_days) + len(manifest.eval_days)
    assert manifest.teacher is not None
    teacher = nodes[f"teacher {manifest.teacher.name} {manifest.teacher.version}"]
    assert teacher.facts["contract hash (model included)"] == manifest.teacher.contract_hash
    with Lake(settings, snapshot=manifest.snapshot) as lake:
        (exposures,) = lake.connection.execute("select count(*) from lake.landing.exposures").fetchall()[0]
    landed = {row["table"]: row for row in nodes["landed files"].rows}
    assert {"exposures", "listens", "source_impressions"} <= set(landed)
    assert landed["exposures"]["rows loaded"] == f"{exposures:,}"
    assert nodes["model.onnx"].facts["sha256"] == manifest.onnx_sha256
    assert {row["here and now"] for row in nodes["code and specification"].rows[1:]} == {"the same"}


def test_the_command_prints_the_lineage_and_writes_a_page(
    settings: Settings, release: Release, tmp_path: Path, run_command: Callable[..., str]
) -> None:
    page = tmp_path / "lineage.html"
    said = run_command(settings.home, "lineage", release.id, "--out", str(page))
    assert f"lake snapshot {release.manifest.snapshot}" in said and "table exposures" in said
    assert page.read_text() == as_page(trace(settings, release))
    words = as_shown("crossfade lineage homepage")
    told = json.loads(run_command(settings.home, *words, "--json", "--out", str(page)).split("read /")[0])
    assert told["title"] == f"homepage {release.id}"


def test_an_unknown_release_is_refused_with_the_known_ones(settings: Settings, release: Release) -> None:
    with pytest.raises(ValueError, match=rf"no release 'nothing'; there are homepage: {release.id}"):
        find_release(ReleaseStore(settings.artifacts_dir), "nothing")


def test_a_release_is_trained_again_to_its_bytes_even_after_a_day_was_corrected(
    settings: Settings, release: Release
) -> None:
    day = release.manifest.train_days[0]
    where = "lake.features.examples_homepage where day = ?"
    with Lake(settings) as lake:
        kept = lake.sql(f"select * from {where}", [day])
        lake.replace_days("features.examples_homepage", kept.slice(0, 10), [day])
    try:
        words = as_shown("crossfade reproduce homepage")
        done = CliRunner().invoke(app, [*words, "--json"], env=home_environment(settings.home))
    finally:
        with Lake(settings) as lake:
            lake.replace_days("features.examples_homepage", kept, [day])
    assert done.exit_code == 0, done.exception
    figures = json.loads(done.stdout)[f"{release.id}, released and trained again"]
    assert all(row["released"] == row["again"] and row["largest difference of a score"] == 0 for row in figures)
    assert [row["task"] for row in figures] == ["ctr AUC", "trail R2", "discovery AUC"]
    assert "weights: the same bytes; model.onnx: the same bytes\nreproduced: the bytes match" in done.stderr
    assert " then, " not in done.stderr, "nothing differs of what it was made with"
    assert not list((settings.home / "scratch").iterdir()), "nothing is left behind"


def test_what_is_gone_is_named_instead_of_reproduced(settings: Settings, release: Release) -> None:
    gone = {"checkpoint_sha256": "0" * 64}, {"snapshot": 10**6}
    for change, reason in zip(gone, ("is no longer stored", "snapshot 1000000 cannot be read"), strict=True):
        other = replace(release, manifest=release.manifest.model_copy(update=change))
        with pytest.raises(NotReproducible, match=reason):
            reproduce(settings, other)


def test_the_commands_tell_the_verdict_and_promote_what_serves_already_without_a_move(
    settings: Settings, release: Release, run_command: Callable[..., str]
) -> None:
    said = run_command(settings.home, *as_shown("crossfade release verdict homepage"))
    assert f"verdict of homepage {release.manifest.partition}: pass" in said and "quality" in said
    store = ReleaseStore(settings.artifacts_dir)
    moves = len(store.history("homepage"))
    day = str(release.manifest.partition)
    said = run_command(settings.home, "release", "promote", "homepage", "--partition", day, "--by", "test")
    assert f"homepage now serves {release.id}" in said and len(store.history("homepage")) == moves


def test_two_releases_differ_in_what_they_were_made_of(release: Release) -> None:
    other = replace(
        release,
        record=release.record.model_copy(update={"id": "other"}),
        manifest=release.manifest.model_copy(update={"seed": 99, "libraries": {"torch": "1"}}),
    )
    found = {row["what"]: (row[release.id], row["other"]) for row in difference(release, other)}
    assert found["seed"] == (str(release.manifest.seed), "99")
    assert found["library torch"] == (release.manifest.libraries["torch"], "1")
    assert "partition" not in found and difference(release, release) == []
