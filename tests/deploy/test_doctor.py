"""The doctor finds what is wrong with a home, says what to do, and changes nothing."""

from pathlib import Path

import dagster as dg
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from deploy.cli.doctor import EXAMINATIONS, State, examine
from deploy.cli.main import app
from deploy.definitions import build_definitions
from deploy.home import pool_limits
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.releases.store import ReleaseStore
from ml.surfaces.files import load_surface
from tests.support.listeners import SECRETS, URLS
from tests.support.shop import Shop
from tests.support.sigstore import ADA, ISSUER, local_sigstore

SURFACES = PROJECT_ROOT / "tests" / "surfaces"


def found(home: Path, **changes: object) -> dict[str, tuple[State, str, str]]:
    settings = Settings(**{"home": home, "surfaces_dir": SURFACES, "threads": 1, **changes})
    return {finding.what: (finding.state, finding.told, finding.remedy) for finding in examine(settings)}


def files(home: Path) -> dict[Path, bytes]:
    return {
        p: p.read_bytes() for p in home.rglob("*") if p.is_file() and p.suffix not in (".sqlite-shm", ".sqlite-wal")
    }


def test_a_finished_home_is_good_throughout_and_stays_as_it_is(tiny_demo: Path) -> None:
    before = files(tiny_demo / "artifacts") | files(tiny_demo / "teacher")
    states = found(tiny_demo)
    assert list(states) == list(EXAMINATIONS)
    of_machine = ("memory", "home", "packages")
    assert {what: state for what, (state, *_) in states.items() if state != State.GOOD and what not in of_machine} == {}
    assert files(tiny_demo / "artifacts") | files(tiny_demo / "teacher") == before


def test_an_old_reference_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    shop = Shop(tmp_path / "home" / "artifacts", load_surface(SURFACES / "homepage.yaml"))
    shop.release(0)
    shop.release(100)
    state, told, remedy = found(tmp_path / "home")["references"]
    assert (state, told) == (State.DOUBTFUL, "homepage: 100 days older than what serves")
    assert "crossfade release confirm homepage" in remedy
    assert found(tmp_path / "home", reference_days=100)["references"][0] is State.GOOD
    shop.store.confirm("homepage", by="Ada", reason="looked at")
    assert found(tmp_path / "home")["references"][0] is State.GOOD


def test_an_absent_home_is_bad_and_the_doctor_does_not_make_it(tmp_path: Path) -> None:
    states = found(tmp_path / "none")
    for what in ("home", "lake", "dagster"):
        assert states[what][0] is State.BAD and states[what][2] == "crossfade init"
    assert {states[what][0] for what in ("teacher", "landing", "releases", "features", "dbt")} == {State.DOUBTFUL}
    assert not (tmp_path / "none" / "lake").exists()


def test_what_is_broken_is_named_with_what_to_do(tiny_demo: Path, tmp_path: Path) -> None:
    champion = ReleaseStore(tiny_demo / "artifacts").champion("radio")
    assert champion is not None
    model, content = champion.release.model, champion.release.model.read_bytes()
    model.write_bytes(b"rot")
    (tmp_path / "contract.yaml").write_text("name: x")
    (tmp_path / "surfaces").mkdir()
    states = found(
        tiny_demo, teacher=tmp_path / "contract.yaml", serve_url="http://127.0.0.1:9", ray_address="127.0.0.1:9"
    )
    model.write_bytes(content)
    assert states["releases"][0] is State.BAD and "model.onnx" in states["releases"][1]
    assert "crossfade release recover" in states["releases"][2]
    assert states["teacher"][0] is State.BAD and "version" in states["teacher"][1]
    assert states["server"][0] is State.BAD
    assert states["cluster"][0] is State.BAD and "127.0.0.1:9 cannot be reached" in states["cluster"][1]
    assert "unset CROSSFADE_RAY_ADDRESS" in states["cluster"][2]
    assert found(tiny_demo, surfaces_dir=tmp_path / "surfaces")["surfaces"][0] is State.BAD


def test_addresses_that_cannot_reach_anybody_are_told_by_place_and_cure_and_never_shown(tmp_path: Path) -> None:
    home, good = (
        tmp_path / "home",
        [URLS["slack"], URLS["teams"], URLS["pagerduty"], "jsons://u:webhooksecret@h.example/x"],
    )
    bad = {
        "mqtt://u:verysecret1@broker.example/verysecret2": "paho-mqtt",
        "slak://verysecret3/verysecret4": "did you mean slack://",
        "hooks.slack.com/services/verysecret5": "does not begin with a service",
        "https://h.example/verysecret6": "jsons://",
        "mailto://u:verysecret7@": "other parts",
    }
    home.mkdir()
    state, told, _ = found(home, alerts=" ".join(good))["alerts"]
    assert state is State.GOOD and told.count("://") == len(good)
    assert not [secret for secret in SECRETS if secret in told]
    assert found(home)["alerts"][0] is State.GOOD, "who names none is told nothing"
    for place, (url, cure) in enumerate(bad.items(), start=1):
        urls = [*good[: place - 1], url]
        state, told, remedy = found(home, alerts=" ".join(urls))["alerts"]
        assert state is State.BAD and f"address {place} of {place}, " in told and cure in told, told
        assert "verysecret" not in told and "docs/how-to/alerts.md" in remedy


def test_pools_that_admit_more_than_one_writer_are_bad(prepared_home: Path) -> None:
    from dagster import DagsterInstance

    from assets.names import LAKE_WRITER

    with DagsterInstance.from_config(str(prepared_home / "dagster")) as instance:
        instance.event_log_storage.set_concurrency_slots(LAKE_WRITER, 4)
        try:
            state, told, remedy = found(prepared_home)["dagster"]
        finally:
            instance.event_log_storage.set_concurrency_slots(LAKE_WRITER, 1)
    assert state is State.BAD and "4" in told and remedy == "crossfade init"
    assert found(prepared_home)["dagster"][0] is State.GOOD


def test_several_writers_have_as_many_places_and_share_a_backfill(prepared_home: Path) -> None:
    several = Settings(home=prepared_home, catalog_url=SecretStr("postgresql://nowhere/none"), lake_writers=3)
    assert pool_limits(several)["lake_writer"] == 3
    assert pool_limits(Settings(home=prepared_home)) == {"lake_writer": 1, "landing": 1, "training": 2}
    for settings, landing, policy in (
        (several, "landing", dg.BackfillPolicy.multi_run(15)),
        (Settings(home=prepared_home), "lake_writer", dg.BackfillPolicy.single_run()),
    ):
        definitions = build_definitions(settings)
        for key, pool in ((["landing", "listens"], landing), (["features", "feat_user"], "lake_writer")):
            assets = definitions.resolve_assets_def(dg.AssetKey(key))
            assert (assets.backfill_policy, assets.op.pool) == (policy, pool)


def test_the_command_prints_every_finding_and_fails_where_one_is_bad(tiny_demo: Path, tmp_path: Path, run_command):
    said = run_command(tiny_demo, "doctor")
    assert all(what in said for what in EXAMINATIONS)
    with pytest.raises(AssertionError, match="lake, dagster"):
        run_command(tmp_path / "none", "doctor")


def test_who_may_sign_without_a_key_and_whether_somebody_can_here_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    with local_sigstore() as sigstore:
        trust = {
            "sigstore_config": sigstore.write_config(tmp_path / "sigstore.json"),
            "trusted_identities": (f"{ADA} {ISSUER}",),
        }
        state, told, _ = found(home, **trust)["signatures"]
        assert state is State.GOOD and told.endswith(f"; trusted identities: '{ADA}' of '{ISSUER}'")
        state, told, remedy = found(home, signing="keyless", **trust)["signatures"]
        assert state is State.DOUBTFUL and "set CROSSFADE_SIGNING_TOKEN" in told and "docs/how-to/sign.md" in remedy
        state, told, _ = found(home, signing="keyless", signing_token=sigstore.token(), **trust)["signatures"]
        assert state is State.GOOD and told.endswith(f"; {ADA} ({ISSUER}) signs here, without a key")
        assert not sigstore.asked, "the doctor asks for no certificate"
    monkeypatch.setenv("CROSSFADE_HOME", str(home))
    monkeypatch.setenv("CROSSFADE_TRUSTED_IDENTITIES", f'["{ADA} {ISSUER}"]')
    shown = CliRunner().invoke(app, ["keys", "list"])
    assert shown.exit_code == 0 and all(word in shown.stdout for word in (ADA, ISSUER, "trusted"))
