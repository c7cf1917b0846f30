"""A keyless signature holds for what a trusted identity signed while its certificate held; tokens are never told."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from ml.foundation.files import sha256_bytes
from ml.foundation.keyless import Keyless, UnusableIdentity
from ml.foundation.settings import Settings, SettingsError
from ml.foundation.signing import Keyring, UnusableKey, new_key
from tests.support.sigstore import ADA, GITHUB, ISSUER, JOB, LocalSigstore, local_sigstore

ROOT = Path(__file__).parents[3]
GOLD = ROOT / "tests" / "fixtures" / "model_signing"
FILES = {"model.onnx": sha256_bytes(b"weights"), "sub/config.json": sha256_bytes(b'{"a": 1}')}
PLACE, HASH = "verdicts/homepage/1.json", "ab" * 32
TRUSTED = f"{ADA} {ISSUER}"
CI = ("GITHUB_ACTIONS", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "BUILDKITE", "GITLAB_CI",
      "CIRCLECI", "GOOGLE_SERVICE_ACCOUNT_NAME")  # fmt: skip
"""What says that a process is a CI job, which may have a token of its own."""


@pytest.fixture(scope="module")
def sigstore() -> Iterator[LocalSigstore]:
    with local_sigstore() as found:
        yield found


@pytest.fixture(scope="module")
def config(sigstore: LocalSigstore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sigstore.write_config(tmp_path_factory.mktemp("sigstore") / "sigstore.json")


@pytest.fixture(scope="module")
def signature(sigstore: LocalSigstore, config: Path) -> dict[str, Any]:
    """Ada's, of the document in its place."""
    found = sigstore.signs(config).sign_document(PLACE, HASH)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def reader(config: Path) -> Keyring:
    """A server: it trusts Ada, and has neither key nor token."""
    return Keyring(keyless=Keyless([TRUSTED], config=config))


@pytest.mark.slow
def test_a_bundle_that_model_signing_signed_without_a_key_is_read() -> None:
    """`model_signing sign sigstore` 1.1.1 wrote it, with a Sigstore of its own, whose configuration lies beside."""
    bundle = (GOLD / "keyless.sig").read_bytes()
    keys = Keyring(keyless=Keyless([TRUSTED], config=GOLD / "sigstore.json"))
    assert str(keys.of_files("sample", FILES, bundle)) == f"signed by {ADA} ({ISSUER})"
    for name, files, told in (
        ("other", FILES, "the name ['sample']"),
        ("sample", {**FILES, "more": FILES["model.onnx"]}, "other files: more"),
        ("sample", {**FILES, "model.onnx": sha256_bytes(b"other")}, "other files: model.onnx"),
    ):
        assert told in keys.of_files(name, files, bundle).fault


def test_another_identity_or_another_issuer_is_refused_by_its_name_beside_those_that_are_trusted(
    sigstore: LocalSigstore, config: Path, reader: Keyring
) -> None:
    for name, issuer in (("eve@app.example", ISSUER), (ADA, "https://other.example"), (JOB, ISSUER)):
        stranger = sigstore.signs(config, name, issuer)
        for signed in (
            reader.of_document(PLACE, HASH, stranger.sign_document(PLACE, HASH)),
            reader.of_files("sample", FILES, stranger.sign_files("sample", FILES)),
        ):
            assert signed.fault == (
                f"signed by '{name}' of '{issuer}', who is not trusted. Trusted identities: '{ADA}' of '{ISSUER}'"
            )


def test_a_signature_holds_for_its_document_in_its_place_alone(reader: Keyring, signature: dict[str, Any]) -> None:
    assert str(reader.of_document(PLACE, HASH, signature)) == f"signed by {ADA} ({ISSUER})"
    for place, content in (("verdicts/homepage/2.json", HASH), (PLACE, "cd" * 32)):
        fault = reader.of_document(place, content, signature).fault
        assert fault == f"its signature by '{ADA}' of '{ISSUER}' is not of this content"


def test_what_was_signed_after_the_certificate_ended_is_refused(
    sigstore: LocalSigstore, config: Path, reader: Keyring
) -> None:
    """Whoever got hold of the key of an old certificate can sign with it, but the log says when."""
    from sigstore.dsse import Statement
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "urn:crossfade:sealed:v1",
        "predicate": {},
    }
    statement |= {"subject": [{"name": PLACE, "digest": {"sha256": HASH}}]}
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    context = SigningContext.from_trust_config(ClientTrustConfig.from_json(config.read_text()))
    sigstore.late = sigstore.lasts + timedelta(seconds=5)
    try:
        with context.signer(IdentityToken(sigstore.token())) as signer:
            late = signer.sign_dsse(Statement(payload))
            sigstore.late = timedelta(0)
            timely = signer.sign_dsse(Statement(payload))
    finally:
        sigstore.late = timedelta(0)
    assert not reader.of_document(PLACE, HASH, {"bundle": json.loads(timely.to_json())}).fault
    fault = reader.of_document(PLACE, HASH, {"bundle": json.loads(late.to_json())}).fault
    assert f"its signature by '{ADA}' of '{ISSUER}' does not hold: " in fault and "valid at" in fault, fault


def _leaves(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of a JSON tree that hold a value, and those that hold a list or an object."""
    if at:
        yield at
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _leaves(value, (*at, key))


def _with(tree: Any, at: tuple[Any, ...], value: Any) -> Any:
    changed = deepcopy(tree)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return changed


NO_PART = {("verificationMaterial", "timestampVerificationData"), ("dsseEnvelope", "signatures", 0, "keyid")}
"""What proves nothing where the log itself says the time: the reader looks at neither."""


def test_nothing_of_a_bundle_can_be_changed_and_whatever_lies_in_its_place_is_a_fault(
    reader: Keyring, signature: dict[str, Any]
) -> None:
    bundle, held = signature["bundle"], []
    for at in _leaves(bundle):
        value = bundle
        for key in at:
            value = value[key]
        spoilt = [None, 7, "", [], {}]
        if isinstance(value, str):
            middle = len(value) // 2
            spoilt.append(value[:middle] + ("A" if value[middle] != "A" else "B") + value[middle + 1 :])
        for other in spoilt:
            if other != value and not reader.of_document(PLACE, HASH, {"bundle": _with(bundle, at, other)}).fault:
                held.append(at)
    assert not {at for at in held if at[:2] not in NO_PART and at not in NO_PART}


def tokens(sigstore: LocalSigstore, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """What gives nobody who can sign, each by what is told."""
    (tmp_path / "empty").write_text("")
    (tmp_path / "open.json").write_text("{}")
    (tmp_path / "open.json").chmod(0o666)
    (tmp_path / "odd.json").write_text("{}")
    token, other = sigstore.token(), ec.generate_private_key(ec.SECP256R1())
    claims = jwt.decode(token, options={"verify_signature": False})
    return {
        "are both set": {"token": token, "token_file": tmp_path / "empty"},
        "CROSSFADE_SIGNING_TOKEN says nobody who can sign now: Signature has expired": {
            "token": sigstore.token(iat=1, exp=2)
        },
        "Audience doesn't match": {"token": sigstore.token(aud="somebody else")},
        "CROSSFADE_SIGNING_TOKEN says nobody who can sign now: it is no token": {"token": "of nobody else"},
        "empty (signing_token_file) says nobody": {"token_file": tmp_path / "empty"},
        "none (signing_token_file) cannot be read: FileNotFoundError": {"token_file": tmp_path / "none"},
        f"Sigstore gave no certificate for '{ADA}' of '{ISSUER}'": {
            "token": jwt.encode(claims, other, algorithm="ES256")
        },
        f"'eve@app.example' of '{ISSUER}' would sign here, and is not trusted here. Trusted: '{ADA}' of '{ISSUER}'": {
            "token": sigstore.token("eve@app.example")
        },
        "no identity is trusted": {"token": token, "trusted": ()},
        "anybody may write to": {"token": token, "config": tmp_path / "open.json"},
        "odd.json (sigstore_config) cannot be used": {"token": token, "config": tmp_path / "odd.json"},
        "gone.json (sigstore_config) cannot be used": {"token": token, "config": tmp_path / "gone.json"},
    }


def test_who_cannot_sign_is_told_why_before_anything_is_logged_and_no_token_is_told(
    sigstore: LocalSigstore, config: Path, tmp_path: Path
) -> None:
    logged = len(sigstore.entries)
    for told, given in tokens(sigstore, tmp_path).items():
        keys = Keyring(keyless=Keyless(**{"trusted": [TRUSTED], "signs": True, "config": config, **given}))
        assert keys.required
        with pytest.raises(UnusableIdentity) as error:
            keys.sign_document(PLACE, HASH)
        assert told in str(error.value), error.value
        secret = str(given.get("token", "of nobody else"))
        assert secret not in str(error.value) + repr(error.value.__cause__) + repr(keys.keyless)
    assert len(sigstore.entries) == logged
    assert "of nobody else" not in repr(Settings(home=tmp_path, signing_token=SecretStr("of nobody else")))


def test_without_a_token_it_says_what_to_set_and_a_job_of_ci_gives_its_own(
    sigstore: LocalSigstore, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CI:
        monkeypatch.delenv(name, raising=False)
    keys = Keyring(keyless=Keyless([f"{JOB} {GITHUB}"], signs=True, config=config))
    with pytest.raises(
        UnusableIdentity, match=r"set CROSSFADE_SIGNING_TOKEN or CROSSFADE_SIGNING_TOKEN_FILE.*id-token"
    ):
        _ = keys.signer
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with pytest.raises(UnusableIdentity, match=r"offers no token.*ACTIONS_ID_TOKEN_REQUEST_TOKEN"):
        _ = keys.signer
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of the job")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{sigstore.url}/token")
    assert keys.signer == f"{JOB} {GITHUB}"
    assert str(keys.of_document(PLACE, HASH, keys.sign_document(PLACE, HASH))) == f"signed by {JOB} ({GITHUB})"


def test_a_certificate_signs_until_it_is_about_to_end_and_then_the_file_of_the_token_is_read_again(
    sigstore: LocalSigstore, config: Path, reader: Keyring, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{sigstore.token()}\n")
    keys = Keyring(keyless=Keyless([TRUSTED], signs=True, token_file=file, config=config))
    before = sigstore.asked.count("/api/v2/signingCert")
    for _ in range(2):
        assert not reader.of_document(PLACE, HASH, keys.sign_document(PLACE, HASH)).fault
    assert sigstore.asked.count("/api/v2/signingCert") == before + 1
    sigstore.lasts = timedelta(seconds=20)
    try:
        keys = Keyring(keyless=Keyless([TRUSTED], signs=True, token_file=file, config=config))
        for number in range(2):
            file.write_text(sigstore.token(iat=int(number), exp=2**32))
            assert not reader.of_document(PLACE, HASH, keys.sign_document(PLACE, HASH)).fault
    finally:
        sigstore.lasts = timedelta(minutes=10)
    assert sigstore.asked.count("/api/v2/signingCert") > before + 2, "one of 20 seconds is not begun with again"


def test_what_a_log_does_not_prove_is_not_written(sigstore: LocalSigstore, config: Path) -> None:
    keys = sigstore.signs(config)
    _ = keys.signer
    sigstore.late = timedelta(hours=1)
    try:
        with pytest.raises(UnusableIdentity, match="proves nothing"):
            keys.sign_document(PLACE, HASH)
    finally:
        sigstore.late = timedelta(0)


def test_a_key_and_an_identity_are_trusted_at_once_but_one_of_them_signs(
    sigstore: LocalSigstore, config: Path, signature: dict[str, Any], tmp_path: Path
) -> None:
    new_key(tmp_path / "ada.pem", tmp_path / "trusted" / "ada.pub")
    keys = Keyring(private_file=tmp_path / "ada.pem")
    both = Keyring(trusted=tmp_path / "trusted", keyless=Keyless([TRUSTED], config=config))
    assert not both.of_document(PLACE, HASH, signature).fault
    assert not both.of_document(PLACE, HASH, keys.sign_document(PLACE, HASH)).fault
    with pytest.raises(UnusableKey, match=r"nothing can be signed here.*CROSSFADE_SIGNING=keyless"):
        _ = both.signer
    keyless = Keyless([TRUSTED], signs=True, token=sigstore.token(), config=config)
    with pytest.raises(UnusableKey, match="is keyless, and a key to sign with is set too"):
        _ = Keyring(private_file=tmp_path / "ada.pem", keyless=keyless).signer
    assert "Trusted identities: none" in keys.of_document(PLACE, HASH, signature).fault


@pytest.mark.slow
def test_where_it_is_off_nothing_of_it_is_loaded_and_a_reader_asks_nobody(
    signature: dict[str, Any], config: Path, tmp_path: Path
) -> None:
    (tmp_path / "signature.json").write_text(json.dumps(signature))
    code = f"""
import json, socket, sys
def connect(*_): raise AssertionError("somebody was asked")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = connect
from ml.foundation.settings import Settings
from ml.foundation.signing import Keyring
signature = json.load(open({str(tmp_path / "signature.json")!r}))
own, ada = dict(sigstore_config={str(config)!r}), dict(trusted_identities=[{TRUSTED!r}])
for changes in (own, own | dict(signing_key_file={str(tmp_path / "none.pem")!r}), own | ada, ada):
    keys = Keyring.of(Settings(home={str(tmp_path)!r}, **changes))
    signed = keys.of_document({PLACE!r}, {HASH!r}, signature)
    print("sigstore" in sys.modules, signed)
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CROSSFADE_", "XDG_"))}
    clean |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=clean)
    assert done.returncode == 0, done.stderr
    off, other, on, public = done.stdout.splitlines()
    assert off == f"False signed by '{ADA}' of '{ISSUER}', and nobody is trusted here to compare it with"
    assert other.startswith("False ") and "who is not trusted" in other
    assert on == f"True signed by {ADA} ({ISSUER})"
    assert public.startswith(f"True its signature by '{ADA}' of '{ISSUER}' does not hold: "), "of another Sigstore"


def test_without_the_extra_it_says_what_to_install(
    signature: dict[str, Any], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sigstore.models", None)
    keys = Keyring(keyless=Keyless([TRUSTED], config=config))
    with pytest.raises(UnusableIdentity, match="make install EXTRAS=keyless"):
        keys.of_document(PLACE, HASH, signature)


def test_a_trusted_identity_without_its_issuer_is_refused(tmp_path: Path) -> None:
    """Another issuer could vouch for anybody."""
    for wrong in (ADA, f"{ADA} issuer.example", " ", ISSUER):
        with pytest.raises(SettingsError, match=r"trusted_identities: .*is no identity and its issuer"):
            Settings(home=tmp_path, trusted_identities=(wrong,))
    assert Settings(home=tmp_path, trusted_identities=(TRUSTED,)).trusted_identities == (TRUSTED,)
