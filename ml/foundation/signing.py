"""Signatures: who signed a document or a folder of files, and whether it is somebody who is trusted here.

A key signs, or an identity without one (``ml.foundation.keyless``). Keys are ECDSA over P-256 in PEM. A folder is
signed in the format of OpenSSF model signing, so that ``model_signing verify`` reads ours and we read its: an in-toto
statement of every file's SHA-256, in a DSSE envelope, in a Sigstore bundle. A sealed document carries a DSSE signature
of a statement that names its place and its hash, so that it says nothing in another place than its own. The reader
knows both: of a key's signature the statement is not stored.

That library itself brings fourteen packages. ``cryptography`` is there already; what signing without keys takes comes
with the extra ``keyless``.

Source: DSSE v1.0 protocol, https://github.com/secure-systems-lab/dsse; https://github.com/sigstore/model-transparency.
"""

import base64
import binascii
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ml.foundation.keyless import CERTIFICATE, Keyless, NotProved, named_in
from ml.foundation.sealed import DamagedError, canonical
from ml.foundation.settings import Settings

SUFFIX = ".pub"
"""Of the files of a folder of trusted keys."""
_ALGORITHM = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
_IN_TOTO = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_OF_FILES = "https://model_signing/signature/v1.0"
_OF_DOCUMENT = "urn:crossfade:sealed:v1"
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_MOST_BYTES = 16_384
"""No key of these is longer in PEM."""
_SHOWN = 12
"""Characters of a key's id that are shown."""


class UnusableKey(ValueError):
    """A key that cannot be used; the message never holds what the key's file or variable holds."""


class UntrustedError(DamagedError):
    """What a key must vouch for is unsigned, or signed by a key that is not trusted here."""


@dataclass(frozen=True)
class Signed:
    """Who signed something.

    Attributes:
        key: Id of the key that the signature names, or its identity and issuer; None where there is no signature.
        name: Name of that key here, or the identity.
        fault: Why the signature counts for nothing; empty where somebody trusted signed exactly this.
        issuer: Who vouches for the identity; None for a key.
    """

    key: str | None
    name: str | None = None
    fault: str = ""
    issuer: str | None = None

    def __str__(self) -> str:
        """Say it for people."""
        return self.fault or f"signed by {self.name} ({self.issuer or str(self.key)[:_SHOWN]})"


UNSIGNED = Signed(None, fault="unsigned")
_NO_BUNDLE = Signed(None, fault="its signature is no bundle of model signing")


class Keyring:
    """The key or the identity that signs here, and those that are trusted.

    Args:
        private: PEM of the private key.
        private_file: File of it, in place of ``private``.
        trusted: Folder of the trusted public keys, ``<name>.pub``; default: the one that signs.
        home: Instance directory, in which no private key may lie.
        keyless: The identity that signs in place of a key, and those that are trusted beside the keys.
    """

    def __init__(
        self,
        private: str | None = None,
        private_file: Path | None = None,
        trusted: Path | None = None,
        home: Path | None = None,
        keyless: Keyless | None = None,
    ) -> None:
        self._pem, self._file, self._folder, self._home = private, private_file, trusted, home
        self.keyless = keyless or Keyless()

    @classmethod
    def of(cls, settings: Settings) -> "Keyring":
        """Return the keys of a home."""
        key = None if settings.signing_key is None else settings.signing_key.get_secret_value()
        return cls(key, settings.signing_key_file, settings.trusted_keys, settings.home, Keyless.of(settings))

    @property
    def required(self) -> bool:
        """Whether any key or identity is set, so that only what a trusted one signed counts."""
        keys = any(given is not None for given in (self._pem, self._file, self._folder))
        return keys or self.keyless.signs or bool(self.keyless.trusted)

    @property
    def has_key(self) -> bool:
        """Whether a key to sign with is set."""
        return self._pem is not None or self._file is not None

    @cached_property
    def trusted(self) -> dict[str, tuple[str, ec.EllipticCurvePublicKey]]:
        """{id: (name, key)} of the trusted keys.

        Raises:
            UnusableKey: There is none, or one cannot be read.
        """
        if self._folder is None:
            own = self._private
            return {key_id(own.public_key()): ("this key", own.public_key())} if own else {}
        found = {}
        for path in trusted_files(self._folder):
            key = public_key(path)
            found[key_id(key)] = (path.stem, key)
        if not found:
            raise UnusableKey(f"{self._folder} (trusted_keys) holds no public key <name>{SUFFIX}: nothing is trusted")
        return found

    @property
    def signer(self) -> str | None:
        """Id of the key that signs here, or identity and issuer; None where neither is set at all.

        Raises:
            UnusableKey: Keys are trusted and none is there to sign with, or the one that signs is not among them.
            UnusableIdentity: An identity is to sign, and cannot.
        """
        if not self.required:
            return None
        if self.keyless.signs:
            if self.has_key:
                raise UnusableKey("CROSSFADE_SIGNING is keyless, and a key to sign with is set too: unset one of them")
            return self.keyless.signer.pair
        if self._private is None:
            by = "trusted_identities" if self._folder is None else "trusted_keys"
            raise UnusableKey(
                f"nothing can be signed here, and only what is signed counts ({by} is set): set "
                "CROSSFADE_SIGNING_KEY_FILE, or CROSSFADE_SIGNING_KEY, or CROSSFADE_SIGNING=keyless"
            )
        signer = key_id(self._private.public_key())
        if signer not in self.trusted:
            raise UnusableKey(
                f"the key that signs here, {signer[:_SHOWN]}, is not among those of {self._folder} (trusted_keys): "
                f"add its {SUFFIX}, or sign with one that is"
            )
        return signer

    def sign_document(self, name: str, content_hash: str) -> dict[str, Any] | None:
        """Return the signature of a sealed document at its place, or None where nobody signs."""
        signer = self.signer
        if signer is None:
            return None
        if self.keyless.signs:
            return {"bundle": self.keyless.sign(_document(name, content_hash))}
        return {"keyid": signer, "sig": self._sign(_document(name, content_hash))}

    def of_document(self, name: str, content_hash: str, signature: object) -> Signed:
        """Tell who signed a sealed document.

        Args:
            name: Its key in the store.
            content_hash: Its hash, compared with its content.
            signature: What it carries as its signature.
        """
        if not isinstance(signature, Mapping):
            return UNSIGNED
        if isinstance(bundle := signature.get("bundle"), Mapping):
            return self._by_identity(bundle, _document(name, content_hash))
        return self._examined(signature.get("keyid"), signature.get("sig"), _document(name, content_hash))

    def sign_files(self, name: str, files: Mapping[str, str]) -> bytes | None:
        """Return the bundle that signs the files of a folder, or None where nobody signs.

        Args:
            name: Name of the folder.
            files: SHA-256 by path in it.
        """
        signer = self.signer
        if signer is None:
            return None
        payload = _files(name, files)
        bundle = self.keyless.sign(payload) if self.keyless.signs else self._bundle(signer, payload)
        return (json.dumps(bundle, indent=1) + "\n").encode()

    def of_files(self, name: str, files: Mapping[str, str], bundle: bytes | None) -> Signed:
        """Tell who signed the files of a folder: whether by ``sign_files`` or by ``model_signing sign``."""
        if bundle is None:
            return UNSIGNED
        try:
            content = json.loads(bundle)
            envelope, material = content["dsseEnvelope"], content["verificationMaterial"]
            if (content["mediaType"], envelope["payloadType"]) != (_BUNDLE, _IN_TOTO):
                return _NO_BUNDLE
            hint = None if CERTIFICATE in material else material["publicKey"]["hint"]
            payload, signature = base64.b64decode(envelope["payload"], validate=True), envelope["signatures"][0]["sig"]
            statement = json.loads(payload)
            stated = {item["name"]: item["digest"] for item in statement["predicate"]["resources"]}
            about = (statement["predicateType"], [subject["name"] for subject in statement["subject"]])
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return _NO_BUNDLE
        by_identity = CERTIFICATE in material
        found = self._by_identity(content, payload) if by_identity else self._examined(hint, signature, payload)
        if not found.fault and (about != (_OF_FILES, [name]) or stated != dict(files)):
            other = ", ".join(sorted({file for file, _ in stated.items() ^ files.items()})) or f"the name {about[1]}"
            return replace(found, fault=f"signed by {found.name}, but with other files: {other}")
        return found

    def require(self, signed: Signed, what: str, todo: str) -> None:
        """Refuse what no trusted key signed, where a key is set.

        Raises:
            UntrustedError: With what is wrong and what to do.
        """
        if self.required and signed.fault:
            raise UntrustedError(f"{what}: {signed.fault}. {todo}")

    def _examined(self, key: object, signature: object, payload: bytes) -> Signed:
        if not isinstance(key, str) or not isinstance(signature, str):
            return UNSIGNED
        shown = key[:_SHOWN]
        if not self.required:
            return Signed(key, fault=f"signed by {shown!a}, and no key is trusted here to compare it with")
        if key not in self.trusted:
            return Signed(key, fault=f"signed by {shown!a}, which is no trusted key")
        name, public = self.trusted[key]
        try:
            public.verify(base64.b64decode(signature, validate=True), _pae(payload), _ALGORITHM)
        except (InvalidSignature, binascii.Error, ValueError):
            return Signed(key, name, fault=f"its signature by {name} ({shown}) is not of this content")
        return Signed(key, name)

    def _by_identity(self, bundle: Mapping[str, Any], payload: bytes) -> Signed:
        """Tell which identity signed a bundle, and whether exactly this statement."""
        identity = named_in(bundle.get("verificationMaterial"))
        if identity is None:
            return Signed(None, fault="its certificate names no identity")
        found = Signed(identity.pair, identity.name, issuer=identity.issuer)
        if not self.required:
            return replace(found, fault=f"signed by {identity}, and nobody is trusted here to compare it with")
        if identity not in self.keyless.trusted:
            told = f"signed by {identity}, who is not trusted. Trusted identities: {self.keyless.known}"
            return replace(found, fault=told)
        try:
            proved = self.keyless.payload(json.dumps(bundle), identity)
        except (NotProved, RecursionError) as error:
            return replace(found, fault=f"its signature by {identity} does not hold: {error}")
        return (
            found if proved == payload else replace(found, fault=f"its signature by {identity} is not of this content")
        )

    @cached_property
    def _private(self) -> ec.EllipticCurvePrivateKey | None:
        if self._pem is not None and self._file is not None:
            raise UnusableKey("CROSSFADE_SIGNING_KEY and CROSSFADE_SIGNING_KEY_FILE are both set: unset one of them")
        if self._pem is not None:
            return _private_key(self._pem.encode(), "CROSSFADE_SIGNING_KEY")
        if self._file is None:
            return None
        if self._home is not None and self._home.resolve() in self._file.resolve().parents:
            raise UnusableKey(
                f"{self._file} (signing_key_file) lies in {self._home}, which is copied: move it elsewhere"
            )
        return _private_key(_read_private(self._file), str(self._file))

    def _bundle(self, signer: str, payload: bytes) -> dict[str, Any]:
        return {
            "mediaType": _BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": signer}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": _IN_TOTO,
                "signatures": [{"sig": self._sign(payload), "keyid": ""}],
            },
        }

    def _sign(self, payload: bytes) -> str:
        assert self._private is not None
        return base64.b64encode(self._private.sign(_pae(payload), _ALGORITHM)).decode()


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """Return the id of a public key: the SHA-256 of its PEM, in hex."""
    return hashlib.sha256(_public_pem(key)).hexdigest()


def public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Read a public key.

    Raises:
        UnusableKey: It is none on P-256, or anybody may exchange it.
    """
    if _mode_of(path, str(path), "public") & stat.S_IWOTH:
        raise UnusableKey(f"anybody may write to {path}: chmod o-w {path}")
    _require_place(path)
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableKey(f"{path} holds no public key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UnusableKey(f"{path} holds no key on P-256; make one: crossfade keys new")
    return key


def trusted_files(folder: Path) -> list[Path]:
    """Return the files of the public keys of a folder, sorted.

    Raises:
        UnusableKey: The folder is not there, or anybody may add a key.
    """
    if not folder.is_dir():
        raise UnusableKey(f"{folder} (trusted_keys) is no folder")
    if folder.stat().st_mode & stat.S_IWOTH:
        raise UnusableKey(f"anybody may add a key to {folder} (trusted_keys): chmod o-w {folder}")
    return sorted(folder.glob(f"*{SUFFIX}"))


def new_key(path: Path, public: Path) -> str:
    """Make a key: the private one at ``path``, for its owner alone, the public one at ``public``; return its id.

    Raises:
        UnusableKey: One of the files is there.
    """
    for taken in (path, public):
        if taken.exists():
            raise UnusableKey(f"{taken} is there: a key is never replaced; choose another name")
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, content, mode in ((path, pem, 0o600), (public, _public_pem(private.public_key()), 0o644)):
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as handle:
            handle.write(content)
    return key_id(private.public_key())


def _mode_of(path: Path, shown: str, kind: str) -> int:
    """Return the mode of a key's file; refuse what is none, which reading might wait for without end."""
    try:
        found = path.stat()
    except OSError as error:
        raise UnusableKey(f"{shown} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
        raise UnusableKey(f"{shown} is no file of a {kind} key")
    return found.st_mode


def _require_place(path: Path) -> None:
    """Refuse a key in a folder, or where a link leads to one, in which anybody may put another in its place.

    Raises:
        UnusableKey: It lies in one. One with the sticky bit, as ``/tmp`` has it, keeps files of others.
    """
    for folder in (*path.absolute().parents, *path.resolve().parents):
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise UnusableKey(f"anybody may exchange {path}: chmod o-w {folder}")


def _read_private(path: Path) -> bytes:
    """Return the content of a private key's file that its owner alone may read."""
    shown = f"{path} (signing_key_file)"
    mode = _mode_of(path, shown, "private")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UnusableKey(f"others may use {path}, mode {stat.S_IMODE(mode):o}: chmod 600 {path}")
    _require_place(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableKey(f"{shown} cannot be read: {error.strerror}") from error


def _private_key(pem: bytes, where: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not from its cause: what that says may quote the key.
        raise UnusableKey(f"{where} holds no private key in PEM without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UnusableKey(f"{where} holds no key on P-256; make one: crossfade keys new")
    return key


def _public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _document(name: str, content_hash: str) -> bytes:
    """Return the statement that a document of this hash stands in this place."""
    subject = [{"name": name, "digest": {"sha256": content_hash}}]
    return canonical({"_type": _STATEMENT, "subject": subject, "predicateType": _OF_DOCUMENT, "predicate": {}})


def _files(name: str, files: Mapping[str, str]) -> bytes:
    """Return the statement of model signing about the files of a folder."""
    of_all = hashlib.sha256(b"".join(bytes.fromhex(files[file]) for file in sorted(files))).hexdigest()
    statement: dict[str, Any] = {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": of_all}}],
        "predicateType": _OF_FILES,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": ["model.sig"],
            },
            "resources": [{"name": file, "algorithm": "sha256", "digest": files[file]} for file in sorted(files)],
        },
    }
    return canonical(statement)


def _pae(payload: bytes) -> bytes:
    """Return what DSSE signs: ``DSSEv1``, type and payload, each with its length."""
    return b" ".join([b"DSSEv1", str(len(_IN_TOTO)).encode(), _IN_TOTO.encode(), str(len(payload)).encode(), payload])
