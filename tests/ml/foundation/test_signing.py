"""A signature holds for exactly what was signed, by exactly the keys that are trusted; keys are never told."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from ml.foundation.files import sha256_bytes
from ml.foundation.settings import Settings
from ml.foundation.signing import Keyring, UntrustedError, UnusableKey, new_key

GOLD = Path(__file__).parents[2] / "fixtures" / "model_signing"
FILES = {"model.onnx": sha256_bytes(b"weights"), "sub/config.json": sha256_bytes(b'{"a": 1}')}


def keyring(folder: Path, name: str = "ada") -> Keyring:
    """A key that signs and is the only one that is trusted."""
    new_key(folder / f"{name}.pem", folder / "trusted" / f"{name}.pub")
    return Keyring(private_file=folder / f"{name}.pem", trusted=folder / "trusted")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return keyring(tmp_path_factory.mktemp("keys"))


def test_a_bundle_that_model_signing_wrote_is_read(tmp_path: Path) -> None:
    (tmp_path / "gold.pub").write_bytes((GOLD / "gold.pub").read_bytes())
    keys, bundle = Keyring(trusted=tmp_path), (GOLD / "sample.sig").read_bytes()
    assert str(keys.of_files("sample", FILES, bundle)) == "signed by gold (029d27563d00)"
    for name, files, told in (
        ("other", FILES, "the name ['sample']"),
        ("sample", {**FILES, "more": FILES["model.onnx"]}, "other files: more"),
        ("sample", {**FILES, "model.onnx": sha256_bytes(b"other")}, "other files: model.onnx"),
    ):
        assert told in keys.of_files(name, files, bundle).fault


@settings(max_examples=30, deadline=None)
@given(
    name=st.text(max_size=9), content=st.text("0123456789abcdef", max_size=9), change=st.sampled_from(["name", "hash"])
)
def test_a_signature_holds_for_its_document_in_its_place_alone(
    keys: Keyring, name: str, content: str, change: str
) -> None:
    signature = keys.sign_document(name, content)
    assert not keys.of_document(name, content, signature).fault
    other = (f"{name}x", content) if change == "name" else (name, f"{content}0")
    assert "is not of this content" in keys.of_document(*other, signature).fault


@given(bundle=st.binary(max_size=40) | st.sampled_from([b"[]", b"{}", b'{"dsseEnvelope": 1}', b"[" * 99_999]))
def test_whatever_lies_in_place_of_a_signature_is_a_fault(keys: Keyring, bundle: bytes) -> None:
    assert keys.of_files("sample", FILES, bundle).fault
    for signature in (None, bundle.decode("latin1"), {"keyid": bundle.decode("latin1"), "sig": "é"}, {"sig": 1}):
        assert keys.of_document("a", "b", signature).fault
    assert keys.of_document("a", "b", {"keyid": keys.signer, "sig": bundle.decode("latin1")}).fault


def test_what_is_signed_once_is_signed_the_same_again(keys: Keyring) -> None:
    assert keys.sign_files("sample", FILES) == keys.sign_files("sample", FILES)
    assert keys.sign_document("a", "b") == keys.sign_document("a", "b")


def test_a_key_that_is_not_trusted_counts_for_nothing(keys: Keyring, tmp_path: Path) -> None:
    stranger = keyring(tmp_path, "eve")
    signed = keys.of_document("a", "b", stranger.sign_document("a", "b"))
    assert "which is no trusted key" in str(signed)
    with pytest.raises(UntrustedError, match=r"^the log: signed by .* no trusted key\. Look"):
        keys.require(signed, "the log", "Look")
    Keyring().require(signed, "the log", "Look")
    assert "no key is trusted here" in str(Keyring().of_document("a", "b", keys.sign_document("a", "b")))


def secrets(tmp_path: Path) -> dict[str, Keyring]:
    """What cannot sign, each by what is wrong with it."""
    keyring(tmp_path)
    path = tmp_path / "ada.pem"
    pem = path.read_text()
    (tmp_path / "open.pem").write_text(pem)
    (tmp_path / "open.pem").chmod(0o640)
    (tmp_path / "garbage.pem").write_text(pem[:60])
    (tmp_path / "garbage.pem").chmod(0o600)
    (tmp_path / "empty").mkdir()
    (tmp_path / "world").mkdir()
    (tmp_path / "world").chmod(0o777)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    of_rsa = rsa.generate_private_key(65537, 1024).private_bytes(*form, serialization.NoEncryption())
    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(*form, serialization.BestAvailableEncryption(b"x"))
    return {
        "are both set": Keyring(private=pem, private_file=path),
        "mode 640: chmod 600": Keyring(private_file=tmp_path / "open.pem"),
        "garbage.pem holds no private key": Keyring(private_file=tmp_path / "garbage.pem"),
        "none.pem (signing_key_file) cannot be read": Keyring(private_file=tmp_path / "none.pem"),
        "CROSSFADE_SIGNING_KEY holds no private key": Keyring(private=""),
        "CROSSFADE_SIGNING_KEY holds no key on P-256": Keyring(private=of_rsa.decode()),
        "without a password": Keyring(private=locked.decode()),
        "empty (trusted_keys) holds no public key": Keyring(private=pem, trusted=tmp_path / "empty"),
        "none (trusted_keys) is no folder": Keyring(private=pem, trusted=tmp_path / "none"),
        "anybody may add a key": Keyring(private=pem, trusted=tmp_path / "world"),
        "which is copied: move it elsewhere": Keyring(private_file=path, home=tmp_path),
        "nothing can be signed here": Keyring(trusted=tmp_path / "trusted"),
        "is not among those of": Keyring(trusted=tmp_path / "trusted", private=_other(tmp_path)),
    }


def odd(tmp_path: Path, make: Callable[[Path], object]) -> Keyring:
    """Keys, among which lies something else."""
    keys = keyring(tmp_path)
    make(tmp_path / "trusted" / "odd.pub")
    return keys


def linked(path: Path) -> None:
    """A key of a folder that anybody may write to."""
    place = path.parents[1] / "of everybody"
    place.mkdir()
    new_key(place / "eve.pem", place / "eve.pub")
    place.chmod(0o777)
    path.symlink_to(place / "eve.pub")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.symlink_to("/nowhere"), "cannot be read: No such file"),
        (Path.mkdir, "is no file of a public key"),
        (os.mkfifo, "is no file of a public key"),
        (lambda path: path.symlink_to("/dev/zero"), "is no file of a public key"),
        (lambda path: (path.touch(), os.truncate(path, 2**40)), "is no file of a public key"),
        (linked, "of everybody"),
    ],
)
def test_whatever_lies_among_trusted_keys_is_refused_at_once_by_its_name(
    tmp_path: Path, make: Callable[[Path], object], told: str
) -> None:
    with pytest.raises(UnusableKey, match=r"odd\.pub") as refused:
        _ = odd(tmp_path, make).trusted
    assert told in str(refused.value)


def test_a_key_below_a_folder_in_which_anybody_may_exchange_it_is_refused(tmp_path: Path) -> None:
    keys = keyring(tmp_path)
    tmp_path.chmod(0o777)
    for of in (keys, Keyring(private_file=tmp_path / "ada.pem")):
        with pytest.raises(UnusableKey, match=f"anybody may exchange .*: chmod o-w {tmp_path}$"):
            _ = of.trusted
    tmp_path.chmod(0o1777)
    assert keyring(tmp_path / "more").trusted


def _other(tmp_path: Path) -> str:
    new_key(tmp_path / "other.pem", tmp_path / "other.pub")
    return (tmp_path / "other.pem").read_text()


def test_a_key_that_cannot_be_used_stops_all_signing_and_its_content_is_never_told(tmp_path: Path) -> None:
    for told, keys in secrets(tmp_path).items():
        assert keys.required
        with pytest.raises(UnusableKey) as error:
            _ = keys.signer
        assert told in str(error.value)
        secret = [line for path in tmp_path.glob("*.pem") for line in path.read_text().splitlines() if "-" not in line]
        assert secret and not any(line in str(error.value) + repr(error.value.__cause__) for line in secret)


def test_a_made_key_is_for_its_owner_alone_and_is_never_replaced(tmp_path: Path) -> None:
    keys = keyring(tmp_path)
    assert (tmp_path / "ada.pem").stat().st_mode & 0o777 == 0o600 and keys.signer in keys.trusted
    with pytest.raises(UnusableKey, match="never replaced"):
        new_key(tmp_path / "ada.pem", tmp_path / "other.pub")


def test_an_empty_variable_is_a_key_that_cannot_be_used_and_not_none(tmp_path: Path) -> None:
    assert not Keyring.of(Settings(home=tmp_path)).required
    assert Keyring.of(Settings(home=tmp_path, signing_key=SecretStr(""))).required
    home = Settings(home=tmp_path, signing_key=SecretStr("of nobody else"))
    assert "of nobody else" not in repr(home) and "of nobody else" not in repr(Keyring.of(home))
