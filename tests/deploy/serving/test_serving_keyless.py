"""A server that trusts an identity serves what it signed, asks nobody for that, and serves nothing of another."""

from pathlib import Path

from deploy.serving.engine import Engine
from deploy.serving.metrics import Metrics
from tests.support.sigstore import ADA, ISSUER, local_sigstore
from tests.support.tiny_home import Home, tiny_settings


def test_a_server_serves_what_a_trusted_identity_signed_and_asks_nobody(published: Path, tmp_path: Path) -> None:
    with local_sigstore() as sigstore:
        trust = {
            "sigstore_config": sigstore.write_config(tmp_path / "sigstore.json"),
            "trusted_identities": (f"{ADA} {ISSUER}",),
        }
        signs = {"signing": "keyless", "signing_token": sigstore.token(), **trust}
        home = Home(tiny_settings(tmp_path / "home", **signs), published)
        home.publish()
        releases = {surface: home.promote(surface, 1).release for surface in ("homepage", "radio")}
    engine = Engine(tiny_settings(tmp_path / "home", **trust), Metrics())
    engine.refresh()
    assert {name: item.released.release for name, item in engine.served.items()} == releases and not engine.not_ready()
    eve = {**trust, "trusted_identities": (f"eve@app.example {ISSUER}",)}
    other = Engine(tiny_settings(tmp_path / "home", **eve), Metrics())
    other.refresh()
    assert not other.served and other.not_ready()
    told = other.details()["champion of homepage"]
    assert f"signed by '{ADA}' of '{ISSUER}', who is not trusted" in told and "'eve@app.example' of" in told
