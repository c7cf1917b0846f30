"""What other tools are told of a home: every judged candidate, once, and nothing where their setting is not there."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from deploy.elsewhere.sensors import build_elsewhere
from ml.foundation.settings import Settings, SettingsError
from ml.releases.verdicts import Override
from ml.stages.artifacts import find
from ml.stages.evaluation import numbers_of, read_evaluation
from ml.stages.release import promote_candidate
from ml.surfaces.spec import load_surfaces
from tests.support.collectors import MlflowServer, answering


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
        down = look(settings, instance)
        assert "1 runs were sent, then: the MLflow server does not take" in down.skip_message, (
            "the days were no candidate"
        )
        with pytest.raises(Exception, match="does not take what it is sent"):
            look(settings, instance, down.cursor)
        server.down = False
        first = look(settings, instance, down.cursor)
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


def test_without_a_setting_nothing_is_told_and_a_password_in_an_address_is_refused_unseen(prepared_home: Path) -> None:
    assert build_elsewhere(Settings(home=prepared_home)) == []
    with pytest.raises(SettingsError, match="mlflow_uri: holds a user or a password") as refused:
        Settings(home=prepared_home, mlflow_uri="https://ann:geheim@mlflow.example.com")
    assert "geheim" not in str(refused.value)
