"""What a change of SQL, macros, declarations, contract or surfaces would build again is told, and nothing is done."""

import re
import shutil
from datetime import date
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from deploy.cli.main import app
from ml.foundation.settings import EXAMPLES, Settings
from ml.operations.plan import changed_models, plan
from tests.support.commands import home_environment
from tests.support.pages import as_shown


def manifest(**changes: str) -> dict[str, Any]:
    """Return a project: a <- b <- c, b calls macro m, which calls n; x stands alone."""
    parents = {"a": [], "b": ["a"], "c": ["b"], "x": []}
    return {
        "nodes": {
            f"model.p.{name}": {
                "name": name,
                "resource_type": "model",
                "raw_code": changes.get(name, f"select {name}"),
                "config": {"meta": {"entity": ["user_id"], "default": {"n": changes.get("default", 0)}}},
                "columns": {},
                "depends_on": {
                    "nodes": [f"model.p.{parent}" for parent in above],
                    "macros": ["macro.p.m"] if name == "b" else [],
                },
            }
            for name, above in parents.items()
        },
        "macros": {
            "macro.p.m": {"macro_sql": "m", "depends_on": {"macros": ["macro.p.n"]}},
            "macro.p.n": {"macro_sql": changes.get("n", "n"), "depends_on": {"macros": []}},
        },
    }


def test_a_change_of_sql_or_of_a_macro_reaches_all_that_read_it_and_nothing_else() -> None:
    assert changed_models(manifest(), manifest()) == {}
    assert changed_models(manifest(), manifest(a="select 2")) == {
        "a": "its SQL",
        "b": "it reads a",
        "c": "it reads b",
    }
    assert changed_models(manifest(), manifest(n="other")) == {"b": "macro m", "c": "it reads b"}
    assert set(changed_models(manifest(), manifest(default="1"))) == {"a", "b", "c", "x"}
    before = manifest()
    del before["nodes"]["model.p.x"]
    assert changed_models(before, manifest()) == {"x": "it is new"}


def test_days_labels_and_students_of_a_home_are_told_and_nothing_is_done(tmp_path: Path, tiny_demo: Path) -> None:
    surfaces = shutil.copytree(EXAMPLES / "simulator" / "surfaces", tmp_path / "surfaces")
    settings = Settings(home=tiny_demo, surfaces_dir=surfaces)
    assert settings.teacher is not None
    kept = settings.teacher.read_text(encoding="utf-8")
    told = {rebuild.what for rebuild in plan(settings, {})}
    assert not any("soft_labels" in what for what in told)
    (surfaces / "homepage.yaml").write_text(
        (surfaces / "homepage.yaml").read_text(encoding="utf-8").replace("tower: [48]", "tower: [47]"), encoding="utf-8"
    )
    settings.teacher.write_text(kept.replace("license: Apache-2.0", "license: other"), encoding="utf-8")
    try:
        found = {rebuild.what: rebuild for rebuild in plan(settings, {"examples_radio": "its SQL", "feat_none": "x"})}
    finally:
        settings.teacher.write_text(kept, encoding="utf-8")
    assert found["homepage/student"].why == "the surface's YAML"
    assert found["features.examples_radio"].first == date(2026, 1, 1) and "features.feat_none" not in found
    assert found["ml.soft_labels_homepage"].days == found["ml.soft_labels_radio"].days > 5
    assert {rebuild.what for rebuild in plan(settings, {})} >= {"homepage/student"}
    environment = home_environment(tiny_demo, CROSSFADE_SURFACES_DIR=str(surfaces))
    done = CliRunner().invoke(app, as_shown("crossfade plan"), env=environment)
    assert done.exit_code == 0 and re.search(r"^homepage/student +.* the surface's YAML", done.stdout, re.M), (
        done.output
    )
