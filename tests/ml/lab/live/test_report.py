from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from deploy.cli.main import app
from ml.experiments.user_days import METRICS, USER_DAYS_SCHEMA
from ml.foundation.settings import Settings
from ml.lab.live.design import Design, load_design
from ml.lab.live.report import write_report
from ml.lab.live.run import NotRun
from tests.support.pages import as_shown


def rows_of(settings: Settings, design: Design) -> pa.Table:
    """Three worlds in which the second variant, where it is another ranker, gives a twentieth more of everything."""
    made = []
    for world in (1, 2, 3):
        for surface in design.surfaces:
            for day in (date(2026, 1, 26), date(2026, 1, 27)):
                rng = np.random.default_rng([world, day.day])
                for user in range(40):
                    value = float(rng.gamma(3.0))
                    for number, variant in enumerate(design.variants):
                        lift = 1.05 if number and not design.is_aa else 1.0
                        row = {
                            "world": world,
                            "surface": surface,
                            "day": day,
                            "user_id": user,
                            "arm": variant,
                            "requests": 3,
                        }
                        row |= dict.fromkeys(METRICS, value * lift)
                        made += [{**row, "estimate": "paired"}] + [{**row, "estimate": "split"}] * (user % 2 == number)
    return pa.Table.from_pylist(made, schema=USER_DAYS_SCHEMA)


@pytest.mark.slow
def test_the_report_puts_the_papers_online_table_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ml.lab.live.report.experiment_rows", rows_of)
    monkeypatch.setenv("CROSSFADE_HOME", str(tmp_path / "home"))
    words = as_shown("crossfade experiment report live --aa aa")
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "live.md")])
    markdown, page, *plots = (Path(line.removeprefix("wrote ")) for line in done.stdout.splitlines())
    text = markdown.read_text()
    assert "| homepage | new releases | +11.39 | " in text and "| radio | discovery | +2.13 | " in text
    assert "+5.00 [+5.00, +5.00] |" in text and "Every interval holds 0." in text
    assert "| homepage | engagement | both variants answer | +0.00 | +0.00 to +0.00 |  |" in text
    assert {plot.name for plot in plots} == {"effects.png", "homepage_days.png", "radio_days.png"}
    assert all(plot.read_bytes().startswith(b"\x89PNG") and f"live/{plot.name}" in text for plot in plots)
    assert "data:image/png;base64" in page.read_text() and "http" not in page.read_text()


def test_a_report_needs_the_same_traffic_and_a_run_experiment(tmp_path: Path):
    settings = Settings(home=tmp_path / "home")
    with pytest.raises(ValueError, match="experiment quick_aa is no A/A run of live"):
        write_report(settings, "live", "quick_aa", tmp_path / "live.md")
    with pytest.raises(ValueError, match="experiment quick is no A/A run of quick"):
        write_report(settings, "quick", "quick", tmp_path / "live.md")
    with pytest.raises(NotRun, match="crossfade experiment run quick"):
        write_report(settings, "quick", "quick_aa", tmp_path / "live.md")
    assert load_design("quick_aa").is_aa
