"""Verdicts: what the gate decided about exactly these bytes, written once.

A key may be judged again (a guard that could not run, a check started by hand). Every judgement is a file of its own
under the candidate, none is ever changed, and the newest one of a key holds.
"""

import math
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from ml.evaluation.outcome import BLOCKING, Outcome, worst_outcome
from ml.foundation.file_stores import open_files
from ml.foundation.files import Bucket, FileStore
from ml.foundation.sealed import DamagedError, digest, seal, unseal_signed
from ml.foundation.signing import Keyring, Signed
from ml.releases.manifest import Record
from ml.surfaces.gate import PromotionGate

FOLDER = "verdicts"
_NAME = re.compile(r"(\d{6,9})\.json")
GAIN = "_student_minus_control"
"""How the name of a check ends that holds a task's gain over the control."""
_USERS = "_users_with_a_positive"
"""How the name of a check ends that counts the users who did what a task predicts."""


Decision = Literal["pass", "fail", "inconclusive"]
About = Literal["ranker", "popularity"]


class Check(Record):
    """One measured property against its threshold."""

    name: str
    outcome: Outcome
    value: float | str | None = None
    threshold: str = ""
    interval: tuple[float, float] | None = None
    n: int | None = Field(default=None, description="Rows that the value was measured on")
    effective_users: float | None = Field(default=None, description="Users with equally many rows who say as much")
    detail: str = ""

    @field_validator("value", mode="before")
    @classmethod
    def _finite(cls, value: object) -> object:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    @field_validator("interval", mode="before")
    @classmethod
    def _known(cls, value: Sequence[object] | None) -> Sequence[object] | None:
        if isinstance(value, list | tuple) and not all(isinstance(v, int | float) and math.isfinite(v) for v in value):
            return None
        return value


class GuardResult(Record):
    """What one guard of the gate found: the worst outcome of its checks."""

    number: int = Field(ge=1)
    name: str
    outcome: Outcome
    reason: str = ""
    means: str = Field(default="", description="What the guard looks at, where it warns or blocks")
    to_do: str = Field(default="", description="What to do then")
    checks: tuple[Check, ...] = ()


class VerdictKey(Record):
    """What a verdict is about. A verdict about anything else says nothing here."""

    surface: str
    candidate: str = Field(description="Digest of the candidate's files")
    champion: str | None = Field(description="Release that it was compared with")
    eval_days: tuple[date, ...]
    snapshot: int
    gate_digest: str

    @property
    def digest(self) -> str:
        """Content hash of the key."""
        return digest(self.model_dump(mode="json"))


class Override(Record):
    """A person's decision against the gate."""

    by: str
    reason: str


class Verdict(Record):
    """The gate's recorded decision."""

    key: VerdictKey
    about: About = Field(
        default="ranker", description="What was judged; popularity learnt nothing, so that fewer guards can look at it"
    )
    partition: date
    decision: Decision
    guards: tuple[GuardResult, ...]
    judged: dict[str, str] = Field(description="SHA-256 of every file judged")
    judged_at: datetime
    promotion: PromotionGate = Field(default=PromotionGate(), description="Who promotes it; version 0.1 said nothing")
    run_id: str | None = None

    def guard(self, name: str) -> GuardResult:
        """Return what the guard of this name found."""
        return next(g for g in self.guards if g.name == name)

    def gains(self) -> list[Check]:
        """Return the student's gain over the control on each task that decides."""
        checks = [check for guard in self.guards if guard.name in ("quality", "evidence") for check in guard.checks]
        return [check for check in checks if check.name.endswith(GAIN) and isinstance(check.value, float)]

    def failures(self) -> list[str]:
        """Return one line per guard that keeps the candidate from being promoted."""
        return [f"guard {g.number} ({g.name}) {g.outcome}: {g.reason}" for g in self.guards if g.outcome in BLOCKING]


def because(guards: Sequence[GuardResult]) -> str:
    """Say in a sentence why the gate decided so: what each guard that blocks measured first, or which ones warn."""
    blocking = [guard for guard in guards if guard.outcome in BLOCKING]
    if blocking:
        return "; ".join(_first(guard) for guard in blocking)
    warned = [guard.name for guard in guards if guard.outcome is Outcome.WARN]
    return "no guard objects" + (f"; warnings of {', '.join(warned)}" if warned else "")


def missing_traffic(guards: Sequence[GuardResult]) -> str:
    """Say how many users with a positive each task has that lacks some, and how many the gate asks for."""
    lacking = [
        f"{check.name.removesuffix(_USERS)} {check.value:.0f} of {check.threshold.removeprefix('>= ')}"
        for guard in guards
        for check in guard.checks
        if check.name.endswith(_USERS) and check.outcome is Outcome.INCONCLUSIVE and isinstance(check.value, float)
    ]
    return f"users with a positive: {', '.join(lacking)}" if lacking else ""


def _first(guard: GuardResult) -> str:
    checks = [check for check in guard.checks if check.outcome in BLOCKING]
    if not checks:
        return f"{guard.name}: {guard.reason}"
    value = checks[0].value
    found = f"{value:.4g}" if isinstance(value, float) else value
    told = f"{guard.name}: {checks[0].name} is {found}, wanted {checks[0].threshold}"
    return told + (f", and {len(checks) - 1} more" if len(checks) > 1 else "")


def decide(guards: tuple[GuardResult, ...]) -> Decision:
    """Return the decision of all guards: any failure fails, else any doubt is inconclusive; no guard is a failure."""
    outcomes = {guard.outcome for guard in guards}
    if Outcome.FAIL in outcomes or not outcomes - {Outcome.NOT_EVALUATED}:
        return "fail"
    return "inconclusive" if Outcome.INCONCLUSIVE in outcomes else "pass"


class StoredVerdict(Record):
    """A verdict as it was read back, with its seal and its place."""

    verdict: Verdict
    content_hash: str
    path: Path
    signed: Signed


class VerdictStore:
    """Verdicts below ``<root>/verdicts/<surface>/<candidate>/<number>.json``."""

    def __init__(self, root: Path | Bucket, keys: Keyring | None = None) -> None:
        self.files = open_files(root)
        self.keys = keys or Keyring()

    def write(self, verdict: Verdict) -> StoredVerdict:
        """Store a verdict under the next free number of its candidate.

        Raises:
            DamagedError: A file beside it has no number.
        """
        folder = _folder(verdict.key.surface, verdict.key.candidate)
        content = verdict.model_dump(mode="json")
        while True:
            key = next_key(self.files, folder)
            if self.files.create(key, seal(content, partial(self.keys.sign_document, key))):
                return self._read(key)

    def of_candidate(self, surface: str, candidate: str) -> list[StoredVerdict]:
        """Return every verdict about one candidate, oldest first.

        Raises:
            DamagedError: One of them was edited.
        """
        folder = _folder(surface, candidate)
        return [self._read(f"{folder}/{name}") for name in self.files.names(folder)]

    def _read(self, key: str) -> StoredVerdict:
        data = self.files.read(key)
        verdict, content_hash = read_verdict(data, key)
        if key.rsplit("/", 1)[0] != _folder(verdict.key.surface, verdict.key.candidate):
            raise DamagedError(f"{key} holds a verdict about {verdict.key.surface} {verdict.key.candidate}")
        signed = self.keys.of_document(key, content_hash, unseal_signed(data, key).signature)
        return StoredVerdict(verdict=verdict, content_hash=content_hash, path=self.files.path(key), signed=signed)


def read_verdict(data: bytes, name: str) -> tuple[Verdict, str]:
    """Return (verdict, content hash) of a stored verdict; ``name`` names it in errors.

    Raises:
        DamagedError: The document was edited, is no verdict, or its decision does not follow from its guards.
    """
    content, content_hash, _ = unseal_signed(data, name)
    try:
        verdict = Verdict.model_validate(content)
    except ValidationError as error:
        raise DamagedError(f"{name} is no valid verdict: {error}") from error
    for guard in verdict.guards:
        worst = worst_outcome(check.outcome for check in guard.checks)
        if guard.checks and guard.outcome not in (worst, Outcome.FAIL):
            raise DamagedError(f"{name} says {guard.outcome!r} of guard {guard.name}, its checks say {worst!r}")
    if verdict.decision != decide(verdict.guards):
        raise DamagedError(f"{name} decides {verdict.decision!r}, its guards say {decide(verdict.guards)!r}")
    return verdict, content_hash


def now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


def _folder(surface: str, candidate: str) -> str:
    return f"{FOLDER}/{surface}/{candidate}"


def next_key(files: FileStore, folder: str) -> str:
    """Return the key of the next numbered document of a folder.

    Raises:
        DamagedError: A file beside it has no number.
    """
    taken = {name: _NAME.fullmatch(name) for name in files.names(folder)}
    if odd := [name for name, numbered in taken.items() if numbered is None]:
        raise DamagedError(f"{folder}/{odd[0]} is no document of this folder; move it away")
    return f"{folder}/{max((int(found[1]) for found in taken.values() if found), default=0) + 1:06d}.json"
