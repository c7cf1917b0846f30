"""A world is a home of its own: nothing of the study's home or its environment reaches it."""

from pathlib import Path

import pytest

from ml.foundation.settings import EXAMPLES, Settings
from ml.lab.study.design import World
from ml.lab.study.worlds import world_settings


def test_a_world_is_of_the_simulated_app_whatever_the_app_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "crossfade.toml").write_text("feature_window_days = 5\n", encoding="utf-8")
    monkeypatch.setenv("CROSSFADE_APP", str(tmp_path / "app"))
    study = Settings(home=tmp_path / "home")
    assert study.feature_window_days == 5
    world = world_settings(study, World(preset="tiny", seed=1))
    assert world.app == EXAMPLES / "simulator" and world.surfaces_dir == EXAMPLES / "simulator" / "surfaces"
    assert world.feature_window_days == Settings.model_fields["feature_window_days"].default
