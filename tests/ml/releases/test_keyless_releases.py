"""Where an identity signs in place of a key, what another signed is neither promoted, served, nor rolled back to."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli.main import app
from ml.foundation.keyless import Keyless
from ml.foundation.lake import lake_id
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import Settings
from ml.foundation.signing import Keyring, UntrustedError, UnusableKey, new_key
from ml.operations.release_page import entries, standing
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.release import CARD
from ml.releases.store import ReleaseStore
from ml.surfaces.files import load_surfaces
from tests.support.known import present
from tests.support.pages import as_shown
from tests.support.shop import Shop
from tests.support.sigstore import ADA, ISSUER, LocalSigstore, local_sigstore

BY = {"by": "Ada", "reason": "nobody keeps a key any more"}
TRUSTED = f"{ADA} {ISSUER}"


@pytest.fixture(scope="module")
def sigstore() -> Iterator[LocalSigstore]:
    with local_sigstore() as found:
        yield found


@pytest.fixture
def config(sigstore: LocalSigstore, tmp_path: Path) -> Path:
    return sigstore.write_config(tmp_path / "sigstore.json")


@pytest.fixture
def signed(shop: Shop, sigstore: LocalSigstore, config: Path) -> Shop:
    """A shop whose jobs sign as Ada."""
    return shop.with_keys(sigstore.signs(config))


@pytest.fixture
def reader(shop: Shop, config: Path) -> Shop:
    """The same folder as a server sees it: Ada is trusted, nothing signs."""
    return shop.with_keys(Keyring(keyless=Keyless([TRUSTED], config=config)))


def served(shop: Shop):
    found = shop.store.champion("homepage")
    assert found is not None
    return found.release


@pytest.mark.slow
def test_a_release_is_promoted_served_and_rolled_back_to_with_its_identity_trusted_alone(
    signed: Shop, reader: Shop, shop: Shop
) -> None:
    first, second = (signed.release(day).release for day in range(2))
    release = served(reader)
    assert release.id == second and release.record.signing_key == TRUSTED
    assert standing(reader.store, release)["signature"] == f"signed by {ADA} ({ISSUER})"
    assert f"by {TRUSTED}" in (release.path / CARD).read_text()
    assert {row["signature"] for row in entries(reader.store, "homepage")} == {f"signed by {ADA} ({ISSUER})"}
    assert signed.store.rollback("homepage", **BY).release == first
    assert served(reader).id == first and served(shop).id == first, "who trusts nobody goes on as before"
    with pytest.raises(UnusableKey, match="nothing can be signed here"):
        reader.judge(reader.candidate(3))
    copy = shutil.copytree(served(reader).path, served(reader).path.with_name("copy"))
    shutil.copy(copy.with_name(second) / "model.sig", copy.with_name(first) / "model.sig")
    with pytest.raises(UntrustedError, match=f"{first}: signed by {ADA}, but with other files"):
        reader.store.champion("homepage")


def test_what_another_identity_or_issuer_signed_moves_and_serves_nothing(
    signed: Shop, reader: Shop, sigstore: LocalSigstore, config: Path
) -> None:
    before = signed.release(0).release
    for who in (("eve@app.example", ISSUER), (ADA, "https://other.example")):
        stranger = signed.with_keys(sigstore.signs(config, *who))
        candidate = signed.candidate(1)
        judged = stranger.store.verdicts.write(signed.judge(candidate).verdict)
        told = rf"{Refusal.UNTRUSTED}: .*signed by '{who[0]}' of '{who[1]}'.* Trusted identities: '{ADA}' of '{ISSUER}'"
        with pytest.raises(PromotionRefused, match=told):
            signed.promote(candidate)
        assert served(reader).id == before
        judged.path.unlink()
    stranger.store.champions.note(stranger.store.champions.read("homepage"), "homepage", "sign", "Eve", "mine")
    with pytest.raises(DamagedError, match=f"the champion log of homepage is not trusted.*'{ADA}' of 'https://other"):
        reader.store.champion("homepage")


def test_who_goes_over_from_a_key_to_an_identity_trusts_both_meanwhile(
    shop: Shop, signed: Shop, reader: Shop, config: Path, sigstore: LocalSigstore, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted"
    new_key(tmp_path / "ada.pem", trusted / "ada.pub")
    keyed = shop.with_keys(Keyring(private_file=tmp_path / "ada.pem", trusted=trusted))
    first = keyed.release(0).release
    with pytest.raises(UntrustedError, match="which is no trusted key"):
        reader.store.champion("homepage")
    keyless = Keyless([TRUSTED], signs=True, token=sigstore.token(), config=config)
    both = shop.with_keys(Keyring(trusted=trusted, keyless=keyless))
    second = both.release(1).release
    assert served(both).id == second and both.store.rollback("homepage", **BY).release == first
    with pytest.raises(UntrustedError, match=f"signed by '{ADA}' of '{ISSUER}', who is not trusted"):
        served(keyed)
    done = signed.store.sign("homepage", **BY)
    assert any(told.startswith(f"releases/homepage/{first} was signed by") for told in done)
    assert served(reader).id == first, "an identity answers for what the key signed: it may go"


@pytest.mark.slow
def test_the_commands_of_the_page_let_the_identity_answer_for_what_a_key_signed(
    prepared_home: Path, config: Path, sigstore: LocalSigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shutil.copytree(prepared_home, tmp_path / "home")
    new_key(tmp_path / "ada.pem", tmp_path / "trusted" / "ada.pub")
    keyed = Keyring(private_file=tmp_path / "ada.pem", trusted=tmp_path / "trusted")
    lake = lake_id(Settings(home=home))
    shops = [Shop(home / "artifacts", surface, lake, keyed) for surface in load_surfaces(Settings()).values()]
    released = {shop.surface.name: shop.release(0).release for shop in shops}
    settings = {"HOME": home, "SIGNING": "keyless", "TRUSTED_IDENTITIES": json.dumps([TRUSTED])}
    settings |= {"SIGSTORE_CONFIG": config, "SIGNING_TOKEN": sigstore.token()}
    for name, value in settings.items():
        monkeypatch.setenv(f"CROSSFADE_{name}", str(value))
    for words in (
        as_shown('crossfade release sign homepage --reason "our jobs sign from today"'),
        as_shown('crossfade release sign radio --reason "our jobs sign from today"'),
    ):
        done = CliRunner().invoke(app, [*words, "--by", "ada"])
        assert done.exit_code == 0, done.exception
        surface = words[2]
        assert f"releases/{surface}/{released[surface]} was signed by" in " ".join(done.output.split())
        champion = present(ReleaseStore.of(Settings()).champion(surface))
        assert champion.release.id == released[surface]
