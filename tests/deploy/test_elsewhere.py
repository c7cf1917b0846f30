"""What other tools are told of a home: every judged candidate, once, and nothing where their setting is not there."""

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from deploy.elsewhere.sensors import build_elsewhere
from ml.foundation.settings import Settings, SettingsError
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Override
from ml.stages.artifacts import find
from ml.stages.evaluation import numbers_of, read_evaluation
from ml.stages.release import promote_candidate
from ml.surfaces.files import load_surfaces
from tests.support.collectors import LineageServer, MlflowServer, answering


@pytest.fixture(scope="module")
def instance(tiny_demo: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(tiny_demo / "dagster")) as instance:
        yield instance


def look(settings: Settings, instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    """One look of the only sensor that the settings ask for."""
    [sensor] = build_elsewhere(settings)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    with dg.build_sensor_context(instance=instance, resources={"settings": settings}, cursor=cursor) as context:
        return sensor.evaluate_tick(context)


def test_every_judged_candidate_is_a_run_of_mlflow_and_says_which_release_it_became(
    tiny_demo: Path, instance: dg.DagsterInstance
) -> None:
    server = MlflowServer(down=True)
    with answering(server.take) as url:
        settings = Settings(home=tiny_demo, mlflow_uri=url)
        cursor = None
        with pytest.raises(Exception, match="does not take what it is sent"):
            for _ in range(2):  # runs that are no candidate's pass by first
                cursor = look(settings, instance, cursor).cursor
        server.down = False
        first = look(settings, instance, cursor)
        runs = {}
        for name, surface in load_surfaces(settings).items():
            [run] = [r for r in server.runs.values() if r["experiment"] == server.experiments[f"crossfade/{name}"]]
            day = date.fromisoformat(run["tags"]["crossfade.partition"])
            figures = numbers_of(read_evaluation(settings, surface, day), surface)
            assert {key: value for key in figures for value, _, step in run["metrics"][key] if step == 1} == figures
            assert run["tags"]["crossfade.candidate"] == find(settings, surface, "onnx", day).digest
            assert run["status"] == "FINISHED" and "onnx/batch_is_symbolic" in run["metrics"]
            same = run["tags"]["crossfade.spec"] == surface.digest
            assert run["params"].get("training.epochs") == (str(surface.training.epochs) if same else None)
            runs[name] = run

        asked = len(server.asked)
        again = look(settings, instance, first.cursor)
        assert again.cursor == first.cursor and len(server.asked) == asked, "what was sent is not sent again"
        look(settings, instance)
        assert len(server.runs) == len(runs), "a cursor that was lost makes no second run of a candidate"

        day, override = (
            date.fromisoformat(runs["radio"]["tags"]["crossfade.partition"]),
            Override(by="test", reason="test"),
        )
        released = promote_candidate(settings, load_surfaces(settings)["radio"], day, by="test", override=override)
        look(settings, instance, first.cursor)
        assert runs["radio"]["tags"]["crossfade.release"] == released.id


def test_every_run_is_told_to_openlineage_from_the_candidate_back_to_the_landed_files(
    tiny_demo: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = LineageServer("geheim")
    with answering(server.take) as url:
        settings = Settings(home=tiny_demo, openlineage_url=url)
        with pytest.raises(Exception, match="the OpenLineage server answers 401"):
            look(settings, instance)
        monkeypatch.setenv("OPENLINEAGE_API_KEY", server.key)
        look(settings, instance)
    told: dict[str, list[dict[str, Any]]] = {}
    for event in server.events:
        told.setdefault(event["run"]["runId"], []).append(event)
    for begun, ended in told.values():
        assert begun["eventType"] == "START" and ended["eventType"] in ("COMPLETE", "FAIL")
        assert datetime.fromisoformat(begun["eventTime"]) <= datetime.fromisoformat(ended["eventTime"])

    made_from, open_ones = set[str](), ["homepage/onnx"]
    while open_ones:
        name = open_ones.pop()
        made_from.add(name)
        inputs = [one["name"] for event in server.of(name, "COMPLETE") for one in event.get("inputs", [])]
        open_ones += [one for one in inputs if one not in made_from]
    assert {"homepage/student", "homepage/soft_labels", "homepage/teacher_inputs", "landing/exposures"} <= made_from

    event = server.of("homepage/soft_labels", "COMPLETE")[-1]
    [labels] = event["outputs"]
    latest = instance.get_latest_materialization_event(dg.AssetKey(["homepage", "soft_labels"]))
    assert latest is not None and latest.asset_materialization is not None and latest.asset_materialization.tags
    assert labels["facets"]["version"]["datasetVersion"] == latest.asset_materialization.tags["dagster/data_version"]
    assert labels["outputFacets"]["outputStatistics"]["rowCount"] == latest.asset_materialization.metadata["rows"].value
    assert event["run"]["facets"]["parent"]["run"]["runId"] == latest.run_id
    [inputs] = server.of("homepage/teacher_inputs", "COMPLETE")[-1]["outputs"]
    assert "exposure_id" in [column["name"] for column in inputs["facets"]["schema"]["fields"]]
    assert inputs["facets"]["symlinks"]["identifiers"][0]["name"] == "lake.features.teacher_inputs_homepage"
    event = server.of("homepage/onnx/checks", "COMPLETE")[-1]
    found = {one["assertion"]: one["success"] for one in _assertions(event)}
    day = date.fromisoformat(event["run"]["facets"]["nominalTime"]["nominalStartTime"][:10])
    candidate = find(settings, load_surfaces(settings)["homepage"], "onnx", day).digest
    verdict = ReleaseStore.of(settings).verdicts.of_candidate("homepage", candidate)[-1].verdict
    assert found["verdict"] == (verdict.decision == "pass") and len(found) == 1 + len(verdict.guards)


def _assertions(event: dict[str, Any]) -> list[dict[str, Any]]:
    [judged] = event["inputs"]
    return judged["inputFacets"]["dataQualityAssertions"]["assertions"]


def test_a_run_that_fails_is_told_with_its_cause_and_without_a_password(
    tiny_demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.asset
    def broken() -> None:
        raise ValueError("postgresql://ann:geheim@db/lake is not there")

    server = LineageServer("key")
    monkeypatch.setenv("OPENLINEAGE_API_KEY", server.key)
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "night")
    with dg.DagsterInstance.ephemeral() as instance, answering(server.take) as url:
        dg.materialize([broken], instance=instance, raise_on_error=False)
        look(Settings(home=tiny_demo, openlineage_url=url), instance)
    assert [(e["job"]["name"], e["eventType"]) for e in server.events] == [
        ("assets", "START"), ("broken", "START"), ("broken", "FAIL"), ("assets", "FAIL")
    ]  # fmt: skip
    told = server.events[-1]["run"]["facets"]["errorMessage"]["message"]
    assert "db/lake is not there" in told and "geheim" not in str(server.events)
    assert {e["job"]["namespace"] for e in server.events} == {"night"}


def test_without_a_setting_nothing_is_told_and_a_password_in_an_address_is_refused_unseen(prepared_home: Path) -> None:
    assert build_elsewhere(Settings(home=prepared_home)) == []
    with pytest.raises(SettingsError, match="mlflow_uri: holds a user or a password") as refused:
        Settings(home=prepared_home, mlflow_uri="https://ann:geheim@mlflow.example.com")
    assert "geheim" not in str(refused.value)
