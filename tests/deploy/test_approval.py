"""A candidate that waits for a person: its run ends without a release, and the job or the command makes it one."""

import shutil
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from assets.release import build_release
from deploy.automation.alerting import STATES, Memory
from deploy.automation.jobs import approve_job
from deploy.cli.main import app
from ml.foundation.artifacts import ArtifactStore
from ml.foundation.settings import EXAMPLES, Settings
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import now
from ml.surfaces.files import load_surface
from tests.support.pages import as_shown
from tests.support.shop import Shop


@pytest.fixture
def manual(prepared_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, Shop]:
    """A home whose homepage is promoted by hand, with two candidates that passed."""
    home = shutil.copytree(prepared_home, tmp_path / "home")
    (home / "surfaces").mkdir()
    text = f"extends: {EXAMPLES}/simulator/surfaces/homepage.yaml\ngate: {{promotion: {{mode: manual}}}}\n"
    (home / "surfaces/homepage.yaml").write_text(text)
    monkeypatch.setenv("CROSSFADE_HOME", str(home))
    monkeypatch.setenv("CROSSFADE_SURFACES_DIR", str(home / "surfaces"))
    shop = Shop(home / "artifacts", load_surface(home / "surfaces/homepage.yaml"))
    for day in range(2):
        candidate = shop.candidate(day)
        shop.judge(candidate, promotion=shop.surface.gate.promotion)
        ArtifactStore(shop.root).put("models/homepage/evaluation", candidate.partition, {"evaluation.json": b"{}"})
    return Settings(), shop


def test_the_run_waits_and_a_person_approves_in_the_launchpad_or_by_command(manual: tuple[Settings, Shop]) -> None:
    settings, shop = manual

    def told(hours: float = 0) -> list[str]:
        look, later = STATES["approvals"].look, now() + timedelta(hours=hours)
        with dg.DagsterInstance.ephemeral() as instance:
            return [f"{one.cause.name}: {one.about}" for one in look(settings, instance, Memory(), later)]

    assert told() == ["waits_for_a_person: homepage 2026-02-02"] and told(hours=73) == []
    release = build_release(settings, shop.surface)[1]
    run = dg.materialize([release], partition_key="2026-02-01", resources={"settings": settings})
    assert run.success and not run.asset_materializations_for_node("homepage__release")
    assert ReleaseStore.of(settings).pointer("homepage") is None
    said = {"surface": "homepage", "partition": "2026-02-01", "by": "Ada", "reason": "looked at it"}
    config = {"ops": {"approve_waiting": {"config": said}}}
    assert approve_job.execute_in_process(run_config=config, resources={"settings": settings}).success
    assert [entry.by for entry in ReleaseStore.of(settings).history("homepage")] == ["Ada"]
    # What passed beside it was compared with no champion: it is judged again before anybody can say yes.
    words = as_shown(
        "crossfade release approve homepage --partition 2026-02-01 "
        '--reason "looked at its first places for three accounts"',
        {"2026-02-01": "2026-02-02"},
    )
    command = [*words, "--by", "Bea"]
    assert "superseded" in str(CliRunner().invoke(app, command).exception)
    candidate = shop.candidate(1)
    shop.judge(candidate, promotion=shop.surface.gate.promotion)
    shown = CliRunner().invoke(app, ["release", "verdict", "homepage"])
    assert "waits for a person until" in shown.output
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and "approved by Bea" in " ".join(done.output.split())
    assert told() == []
    last = ReleaseStore.of(settings).history("homepage")[-1]
    assert (last.by, last.partition) == ("Bea", date(2026, 2, 2))
