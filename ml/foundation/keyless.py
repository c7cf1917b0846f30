"""Signatures without a key: a certificate of minutes says which identity signed, and a public log says when.

A CI job or a person shows the token of an OpenID Connect issuer. Sigstore's authority gives a certificate for it, and
its log takes the signature. Certificate, time and the log's proof stand in the bundle, so who reads it asks nobody.
What counts is who is trusted: an identity together with the issuer that vouches for it.

The library comes with the extra ``keyless``. It is loaded where something is signed so, or where a bundle of a trusted
identity is read.

Source: https://docs.sigstore.dev/about/security/; https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md.
"""

import base64
import json
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from cryptography import x509

from ml.foundation.settings import Settings

if TYPE_CHECKING:
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import Signer
    from sigstore.verify import Verifier

CERTIFICATE = "certificate"
"""What a bundle's verification material holds where an identity signed, in place of a key's hint."""
_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_OTHER_NAME = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7")
_SPARE = timedelta(seconds=30)
"""A certificate that ends sooner is not begun with: the log must have the signature before."""


class UnusableIdentity(ValueError):
    """No identity can sign or be examined here; the message never holds a token."""


class NotProved(ValueError):
    """A bundle does not show that its identity signed its content."""


@dataclass(frozen=True)
class Identity:
    """Who signs: a name, and the issuer that vouches for it."""

    name: str
    issuer: str

    @classmethod
    def of(cls, pair: str) -> Self:
        """Read ``<identity> <issuer>``, as settings have it; an identity may hold blanks, an issuer none."""
        name, issuer = pair.strip().rsplit(maxsplit=1)
        return cls(name, issuer)

    @property
    def pair(self) -> str:
        """As settings have it."""
        return f"{self.name} {self.issuer}"

    def __str__(self) -> str:
        """Say it for people; whoever made the certificate chose the words."""
        return f"{self.name!a} of {self.issuer!a}"


@dataclass(frozen=True)
class _Session:
    """A certificate and its key, until it ends."""

    signer: "Signer"
    identity: Identity
    ends: datetime


class Keyless:
    """The identity that signs here, and those that are trusted.

    Args:
        trusted: ``<identity> <issuer>`` of each that is trusted.
        signs: Whether documents are signed so here.
        token: Token of the identity that signs.
        token_file: File of it, in place of ``token``; read anew for each certificate.
        config: Trust configuration of a private Sigstore; default: the public one.
    """

    def __init__(
        self,
        trusted: Sequence[str] = (),
        signs: bool = False,
        token: str | None = None,
        token_file: Path | None = None,
        config: Path | None = None,
    ) -> None:
        self.trusted = tuple(map(Identity.of, trusted))
        self.signs = signs
        self._given, self._file, self._config = token, token_file, config
        self._open: _Session | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Keyless":
        """Return the identities of a home."""
        token = None if settings.signing_token is None else settings.signing_token.get_secret_value()
        keyless = settings.signing == "keyless"
        return cls(settings.trusted_identities, keyless, token, settings.signing_token_file, settings.sigstore_config)

    @property
    def known(self) -> str:
        """The trusted identities, for messages."""
        return ", ".join(map(str, self.trusted)) or "none (CROSSFADE_TRUSTED_IDENTITIES)"

    @property
    def signer(self) -> Identity:
        """The identity that signs here, as its certificate says; a certificate is asked for where none is valid.

        Raises:
            UnusableIdentity: There is no token, no certificate for it, or nobody here trusts the identity.
        """
        return self._session.identity

    def holder(self) -> str:
        """Say whose token would sign here, and ask for no certificate.

        Raises:
            UnusableIdentity: There is no token, or what signing needs is not there.
        """
        self._trust(offline=True)
        token = self._token()
        return f"{token.identity} ({token.issuer})"

    def sign(self, payload: bytes) -> dict[str, Any]:
        """Return the bundle that signs an in-toto statement, after a look at it as a reader would have.

        Raises:
            UnusableIdentity: See ``signer``; or the log did not take it, or its proof does not hold.
        """
        from sigstore import dsse

        session = self._session
        try:
            bundle = session.signer.sign_dsse(dsse.Statement(payload)).to_json()
        except Exception as error:  # what requests and each of its clients raise has no common class
            raise UnusableIdentity(f"the log of Sigstore took no signature of {session.identity}: {error!r}") from error
        try:
            self.payload(bundle, session.identity)
        except NotProved as error:
            raise UnusableIdentity(f"what Sigstore gave for {session.identity} proves nothing: {error}") from error
        return json.loads(bundle)

    def payload(self, bundle: str, identity: Identity) -> bytes:
        """Return the in-toto statement that an identity signed, after certificate, log and signature were verified.

        Raises:
            NotProved: With what does not hold.
            UnusableIdentity: The library or the trusted root is not there.
        """
        verifier = self._verifier
        from sigstore.dsse import Envelope
        from sigstore.models import Bundle
        from sigstore.verify.policy import Identity as Policy

        policy = Policy(identity=identity.name, issuer=identity.issuer)
        try:
            kind, payload = verifier.verify_dsse(Bundle.from_json(bundle), policy)
        except Exception as error:  # it raises its own, and those of what it reads certificates and JSON with
            raise NotProved(str(error) or repr(error)) from error
        if kind != Envelope._TYPE:
            raise NotProved(f"it signs {kind!a}, which is no statement")
        return payload

    @property
    def _session(self) -> _Session:
        """The certificate in use; another once it is about to end."""
        if self._open is None or datetime.now(UTC) > self._open.ends - _SPARE:
            self._open = self._begun()
        return self._open

    def _begun(self) -> _Session:
        if not self.trusted:
            raise UnusableIdentity(
                "signing is keyless and no identity is trusted, so that nothing would count: set "
                "CROSSFADE_TRUSTED_IDENTITIES"
            )
        config = self._trust(offline=False)
        from sigstore.sign import SigningContext

        token = self._token()
        try:
            with SigningContext.from_trust_config(config).signer(token) as signer:
                certificate = signer._signing_cert()
        except Exception as error:  # as in sign
            raise UnusableIdentity(
                f"Sigstore gave no certificate for {token.identity!a} of {token.issuer!a}: {error!r}"
            ) from error
        identity = _named(certificate)
        if identity not in self.trusted:
            raise UnusableIdentity(
                f"{identity or 'nobody'} would sign here, and is not trusted here. Trusted: {self.known}"
            )
        return _Session(signer, identity, certificate.not_valid_after_utc)

    def _token(self) -> "IdentityToken":
        from jwt import DecodeError
        from sigstore.oidc import IdentityError, IdentityToken

        where, raw = self._shown()
        try:
            return IdentityToken(raw.strip())
        except IdentityError as error:
            # Not from its cause: what that says may quote the token.
            cause = error.__cause__
            told = "it is no token" if cause is None or isinstance(cause, DecodeError) else str(cause)
            raise UnusableIdentity(f"{where} says nobody who can sign now: {told}") from None

    def _shown(self) -> tuple[str, str]:
        """Return where the token comes from, and the token."""
        from sigstore.oidc import IdentityError, detect_credential

        if self._given is not None and self._file is not None:
            raise UnusableIdentity(
                "CROSSFADE_SIGNING_TOKEN and CROSSFADE_SIGNING_TOKEN_FILE are both set: unset one of them"
            )
        if self._given is not None:
            return "CROSSFADE_SIGNING_TOKEN", self._given
        if self._file is not None:
            where = f"{self._file} (signing_token_file)"
            try:
                return where, self._file.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UnusableIdentity(f"{where} cannot be read: {type(error).__name__}") from None
        try:
            raw = detect_credential()
        except IdentityError as error:
            raise UnusableIdentity(f"this CI job offers no token of its identity: {error}") from error
        if raw is None:
            raise UnusableIdentity(
                "signing is keyless, and nothing says who signs: set CROSSFADE_SIGNING_TOKEN or "
                "CROSSFADE_SIGNING_TOKEN_FILE to a token for the audience sigstore, or run where a CI job offers one "
                "(GitHub: permissions: id-token: write)"
            )
        return "the token that the CI job offers", raw

    @cached_property
    def _verifier(self) -> "Verifier":
        config = self._trust(offline=True)
        from sigstore.verify import Verifier

        return Verifier(trusted_root=config.trusted_root)

    def _trust(self, *, offline: bool) -> "ClientTrustConfig":
        """Return whom of Sigstore's services to believe.

        Args:
            offline: Ask nobody for a newer one.
        """
        try:
            from sigstore.models import ClientTrustConfig
        except ModuleNotFoundError as error:
            raise UnusableIdentity(
                f"keyless signatures need packages that are not there ({error.name}): make install EXTRAS=keyless"
            ) from error
        where = "the public Sigstore" if self._config is None else f"{self._config} (sigstore_config)"
        try:
            if self._config is None:
                return ClientTrustConfig.production(offline=offline)
            if self._config.stat().st_mode & stat.S_IWOTH:
                raise UnusableIdentity(f"anybody may write to {where}: chmod o-w {self._config}")
            return ClientTrustConfig.from_json(self._config.read_text("utf-8"))
        except UnusableIdentity:
            raise
        except Exception as error:  # TUF, the network, a file or its content
            raise UnusableIdentity(f"the trust configuration of {where} cannot be used: {error}") from error


def named_in(material: Any) -> Identity | None:
    """Return the identity that a bundle's certificate names, which proves nothing yet; None where it names none."""
    try:
        raw = base64.b64decode(material[CERTIFICATE]["rawBytes"], validate=True)
        return _named(x509.load_der_x509_certificate(raw))
    except (ValueError, KeyError, TypeError):
        return None


def _named(certificate: x509.Certificate) -> Identity | None:
    try:
        issuer = cast(x509.UnrecognizedExtension, certificate.extensions.get_extension_for_oid(_ISSUER).value)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found: list[str] = [
            *names.get_values_for_type(x509.RFC822Name),
            *names.get_values_for_type(x509.UniformResourceIdentifier),
            *(n.value.decode() for n in names.get_values_for_type(x509.OtherName) if n.type_id == _OTHER_NAME),
        ]
        return Identity(found[0], issuer.value.decode()) if len(found) == 1 else None
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return None
