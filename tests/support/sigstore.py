"""Sigstore's authority and log on loopback: each insists on what the public service does, and signs with its own keys.

The authority checks the token and the request, and gives a certificate whose timestamp (SCT) a log of certificates
signed. The log checks the signature that it is told of, keeps a Merkle tree, and answers with proof, signed checkpoint
and signed time, as version 1 of Rekor.

Source: https://github.com/sigstore/fulcio/blob/main/docs/certificate-specification.md; RFC 6962, sections 2.1 and 3.2;
https://github.com/sigstore/rekor/blob/main/openapi.yaml.
"""

import base64
import hashlib
import json
import struct
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ml.foundation.keyless import Keyless
from ml.foundation.signing import Keyring

ISSUER, ADA = "https://issuer.example", "ada@app.example"
GITHUB = "https://token.actions.githubusercontent.com"
JOB = "https://github.com/app/music/.github/workflows/release.yml@refs/heads/main"
_SCTS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_FULCIO = "1.3.6.1.4.1.57264.1"
_ORIGIN = "log.example"
_SHA256 = ec.ECDSA(hashes.SHA256())


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def log_id(key: ec.EllipticCurvePublicKey) -> bytes:
    """RFC 6962: the SHA-256 of the key."""
    return hashlib.sha256(der(key)).digest()


def _u24(data: bytes) -> bytes:
    return struct.pack("!I", len(data))[1:] + data


def root(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    middle = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root(leaves[:middle]) + root(leaves[middle:])).digest()


def path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    middle = 1 << (len(leaves) - 1).bit_length() - 1
    if index < middle:
        return [*path(index, leaves[:middle]), root(leaves[middle:])]
    return [*path(index - middle, leaves[middle:]), root(leaves[:middle])]


class Refused(Exception):
    """The service would not take it."""


class LocalSigstore:
    """Authority and log, and the issuer whose tokens they believe; ``entries`` is what was logged."""

    def __init__(self) -> None:
        self.issuer, self._ca, self._certificates, self._log = (
            ec.generate_private_key(ec.SECP256R1()) for _ in range(4)
        )
        self.entries: list[bytes] = []
        self.asked: list[str] = []
        self.lasts = timedelta(minutes=10)
        """How long a certificate holds."""
        self.late = timedelta(0)
        """How much later than now the log says that it is."""
        self.url = ""
        self._name = x509.Name([
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "app.example"),
            x509.NameAttribute(NameOID.COMMON_NAME, "sigstore"),
        ])  # fmt: skip
        self._began = datetime(2021, 1, 1, tzinfo=UTC)
        key, usage = self._ca.public_key(), _usage(signs=False)
        self.root = (
            x509.CertificateBuilder(self._name, self._name, key, x509.random_serial_number())
            .not_valid_before(self._began)
            .not_valid_after(self._began + timedelta(days=36_500))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .sign(self._ca, hashes.SHA256())
        )

    def token(self, name: str = ADA, issuer: str = ISSUER, **changes: Any) -> str:
        """What the issuer gives somebody, for the audience sigstore and some minutes."""
        now = int(datetime.now(UTC).timestamp())
        claims = {"iss": issuer, "sub": name, "aud": "sigstore", "iat": now, "exp": now + 300} | changes
        return jwt.encode(claims, self.issuer, algorithm="ES256")

    def signs(self, config: Path, name: str = ADA, issuer: str = ISSUER, token: str | None = None) -> Keyring:
        """Somebody who signs here, and trusts nobody else."""
        token = token or self.token(name, issuer)
        return Keyring(keyless=Keyless([f"{name} {issuer}"], signs=True, token=token, config=config))

    def write_config(self, file: Path) -> Path:
        """Write the trust configuration that an administrator of it would hand out."""
        valid = {"start": self._began.isoformat().replace("+00:00", "Z")}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            public = key.public_key()
            return {
                "baseUrl": self.url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": b64(der(public)),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": valid,
                },
                "logId": {"keyId": b64(log_id(public))},
            }

        service = {"url": self.url, "majorApiVersion": 1, "validFor": valid, "operator": "app.example"}
        authority = {
            "subject": {"organization": "app.example", "commonName": "sigstore"},
            "uri": self.url,
            "certChain": {"certificates": [{"rawBytes": b64(self.root.public_bytes(serialization.Encoding.DER))}]},
            "validFor": valid,
        }
        config = {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self._log)],
                "certificateAuthorities": [authority],
                "ctlogs": [log(self._certificates)],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service],
                "oidcUrls": [service],
                "rekorTlogUrls": [service],
                "rekorTlogConfig": {"selector": "ANY"},
            },
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(config), encoding="utf-8")
        return file

    def certify(self, token: str, request: dict[str, str]) -> dict[str, Any]:
        """Fulcio's ``POST /api/v2/signingCert``."""
        try:
            claims = jwt.decode(token, self.issuer.public_key(), algorithms=["ES256"], audience="sigstore")
        except jwt.InvalidTokenError as error:
            raise Refused(str(error)) from error
        asked = x509.load_pem_x509_csr(base64.b64decode(request["certificateSigningRequest"]))
        if not asked.is_signature_valid:
            raise Refused("who asks does not hold the key")
        key, now = asked.public_key(), datetime.now(UTC).replace(microsecond=0)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        name = x509.UniformResourceIdentifier if "://" in claims["sub"] else x509.RFC822Name
        issuer = claims["iss"].encode()
        builder = (
            x509.CertificateBuilder(self._name, x509.Name([]), key, x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + self.lasts)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([name(claims["sub"])]), critical=True)
            .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{_FULCIO}.1"), issuer), critical=False)
        )
        scts = x509.UnrecognizedExtension(_SCTS, self._timestamp(builder))
        certificate = builder.add_extension(scts, critical=False).sign(self._ca, hashes.SHA256())
        chain = [c.public_bytes(serialization.Encoding.PEM).decode() for c in (certificate, self.root)]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def _timestamp(self, builder: x509.CertificateBuilder) -> bytes:
        """RFC 6962, 3.2 and 3.3: the list of one timestamp about the certificate that lacks it."""
        about = builder.sign(self._ca, hashes.SHA256()).tbs_certificate_bytes
        at = int(datetime.now(UTC).timestamp() * 1000)
        entry = log_id(self._ca.public_key()) + _u24(about)
        signature = self._certificates.sign(struct.pack("!BBQH", 0, 0, at, 1) + entry + b"\0\0", _SHA256)
        own = b"\0" + log_id(self._certificates.public_key()) + struct.pack("!Q", at) + b"\0\0"
        own += b"\x04\x03" + struct.pack("!H", len(signature)) + signature
        listed = struct.pack("!HH", len(own) + 2, len(own)) + own
        assert len(listed) < 128
        return b"\x04" + bytes([len(listed)]) + listed

    def log(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """Rekor's ``POST /api/v1/log/entries``, of kind dsse."""
        content = proposed["spec"]["proposedContent"]
        envelope, (verifier,) = json.loads(content["envelope"]), content["verifiers"]
        payload, (signed,) = base64.b64decode(envelope["payload"]), envelope["signatures"]
        kind = envelope["payloadType"].encode()
        key = x509.load_pem_x509_certificate(base64.b64decode(verifier)).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(
            base64.b64decode(signed["sig"]), b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload), _SHA256
        )

        def sha256(data: bytes) -> dict[str, str]:
            return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}

        entry = {
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": sha256(content["envelope"].encode()),
                "payloadHash": sha256(payload),
                "signatures": [{"signature": signed["sig"], "verifier": verifier}],
            },
        }
        self.entries.append(rfc8785.dumps(entry))
        return {uuid.uuid4().hex: self._proof(len(self.entries) - 1)}

    def _proof(self, index: int) -> dict[str, Any]:
        own, now = log_id(self._log.public_key()), int((datetime.now(UTC) + self.late).timestamp())
        told = {
            "body": b64(self.entries[index]),
            "integratedTime": now,
            "logID": own.hex(),
            "logIndex": index,
        }
        found, note = root(self.entries), f"{_ORIGIN}\n{len(self.entries)}\n{b64(root(self.entries))}\n"
        checkpoint = f"{note}\n\u2014 {_ORIGIN} {b64(own[:4] + self._log.sign(note.encode(), _SHA256))}\n"
        proof = {
            "checkpoint": checkpoint,
            "hashes": [part.hex() for part in path(index, self.entries)],
            "logIndex": index,
            "rootHash": found.hex(),
            "treeSize": len(self.entries),
        }
        promise = b64(self._log.sign(rfc8785.dumps(told), _SHA256))
        return {**told, "verification": {"inclusionProof": proof, "signedEntryTimestamp": promise}}


def _usage(*, signs: bool) -> x509.KeyUsage:
    """Of somebody who signs code, else of the authority."""
    return x509.KeyUsage(
        digital_signature=signs,
        key_cert_sign=not signs,
        crl_sign=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _handler(sigstore: LocalSigstore) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """GitHub's answer to a job that may ask for its token."""
            assert parse_qs(urlsplit(self.path).query)["audience"] == ["sigstore"]
            self._answer(200, {"value": sigstore.token(JOB, GITHUB)})

        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = 201, {}
            with lock:
                sigstore.asked.append(self.path)
                try:
                    if self.path == "/api/v2/signingCert":
                        answer = sigstore.certify(self.headers["Authorization"].removeprefix("Bearer "), content)
                    else:
                        answer = sigstore.log(content)
                except Refused as error:
                    status, answer = 400, {"code": 400, "message": str(error)}
            self._answer(status, answer)

        def _answer(self, status: int, answer: dict[str, Any]) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def local_sigstore() -> Iterator[LocalSigstore]:
    """Run authority and log on loopback."""
    sigstore = LocalSigstore()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(sigstore))
    sigstore.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield sigstore
    finally:
        server.shutdown()
        server.server_close()
