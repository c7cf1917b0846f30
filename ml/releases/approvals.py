"""Approvals: where a surface is promoted by hand, who said yes to a candidate that passed, and when.

An approval is about one verdict, and so about these bytes, compared with this champion, by these thresholds. It is a
file of its own under the candidate, created once and never changed; the pointer is moved afterwards. Whoever is killed
between the two leaves an approval that the next promotion finds. A second person's override is recorded the same way.
"""

import unicodedata
from datetime import datetime, timedelta
from functools import partial
from typing import Literal

from pydantic import ValidationError

from ml.foundation.files import FileStore
from ml.foundation.sealed import DamagedError, seal, unseal_signed
from ml.foundation.signing import Keyring
from ml.releases.manifest import Record
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.verdicts import Override, StoredVerdict, next_key, now
from ml.surfaces.gate import PromotionGate

FOLDER = "approvals"


class Approval(Record):
    """A person's yes to what one verdict is about."""

    surface: str
    candidate: str
    verdict: str
    kind: Literal["approve", "override"]
    by: str
    reason: str
    at: datetime


class Approvals:
    """Approvals below ``approvals/<surface>/<candidate>/<number>.json``.

    Args:
        files: Where they lie.
        keys: Who signs them, and whose signatures count.
    """

    def __init__(self, files: FileStore, keys: Keyring) -> None:
        self.files, self.keys = files, keys

    def add(self, stored: StoredVerdict, kind: Literal["approve", "override"], by: str, reason: str) -> Approval:
        """Record that somebody says yes now.

        Raises:
            DamagedError: A file beside it has no number.
        """
        key = stored.verdict.key
        approval = Approval(
            surface=key.surface,
            candidate=key.candidate,
            verdict=stored.content_hash,
            kind=kind,
            by=by,
            reason=reason,
            at=now(),
        )
        folder, content = _folder(stored), approval.model_dump(mode="json")
        while True:
            name = next_key(self.files, folder)
            if self.files.create(name, seal(content, partial(self.keys.sign_document, name))):
                return approval

    def about(self, stored: StoredVerdict, kind: Literal["approve", "override"]) -> list[Approval]:
        """Return who said yes to what this verdict is about, oldest first; where a key is set, who is signed for.

        Raises:
            DamagedError: One of them was edited, is none, or is about another candidate.
        """
        found = []
        for file in self.files.names(_folder(stored)):
            name = f"{_folder(stored)}/{file}"
            content, content_hash, signature = unseal_signed(self.files.read(name), name)
            try:
                approval = Approval.model_validate(content)
            except ValidationError as error:
                raise DamagedError(f"{name} is no approval: {error.errors()[0]['msg']}") from error
            if (approval.surface, approval.candidate) != (stored.verdict.key.surface, stored.verdict.key.candidate):
                raise DamagedError(f"{name} approves {approval.surface} {approval.candidate}")
            counts = not (self.keys.required and self.keys.of_document(name, content_hash, signature).fault)
            if counts and (approval.verdict, approval.kind) == (stored.content_hash, kind):
                found.append(approval)
        return found

    def doubts(self, stored: StoredVerdict, policy: PromotionGate) -> list[tuple[Refusal, str]]:
        """Return what keeps a candidate that passed from being promoted: nobody has said yes in time."""
        if policy.mode == "automatic":
            return []
        deadline = ends(stored, policy)
        if any(stored.verdict.judged_at <= approval.at <= deadline for approval in self.about(stored, "approve")):
            return []
        surface, day = stored.verdict.key.surface, stored.verdict.partition
        if now() > deadline:
            told = f"nobody approved it by {deadline:%Y-%m-%d %H:%M} UTC: judge it again (`onnx` with its checks)"
        else:
            told = (
                f"it waits for a person until {deadline:%Y-%m-%d %H:%M} UTC: crossfade release approve {surface} "
                f"--partition {day} --reason ..., or approve_job"
            )
        return [(Refusal.NOT_APPROVED, f"{stored.path} passes, and {told}")]

    def seconded(self, stored: StoredVerdict, override: Override, policy: PromotionGate) -> Override:
        """Return an override in the names of as many people as the surface asks for; the first one is recorded.

        Raises:
            PromotionRefused: Another person has to ask for it too.
        """
        if policy.override_names == 1:
            return override
        self.add(stored, "override", override.by, override.reason)
        since = now() - timedelta(hours=policy.approve_within_hours)
        recent = [one for one in self.about(stored, "override") if one.at >= since]
        by_name = {_person(one.by): one for one in recent}
        if len(by_name) < policy.override_names:
            raise PromotionRefused(
                Refusal.SECOND_NAME,
                f"{override.by} asks for it, which is recorded for {policy.approve_within_hours:g} h; an override of "
                f"{stored.verdict.key.surface} takes two names: another person has to give the same command",
            )
        people = sorted(by_name.values(), key=lambda one: one.at)
        return Override(
            by=" and ".join(one.by for one in people), reason="; ".join(f"{one.by}: {one.reason}" for one in people)
        )


def ends(stored: StoredVerdict, policy: PromotionGate) -> datetime:
    """Return until when a candidate may be approved."""
    return stored.verdict.judged_at + timedelta(hours=policy.approve_within_hours)


def stricter(one: PromotionGate, other: PromotionGate) -> PromotionGate:
    """Return a policy that asks for whatever one of two asks for: that of the verdict, and today's."""
    return PromotionGate(
        mode="manual" if "manual" in (one.mode, other.mode) else "automatic",
        approve_within_hours=min(one.approve_within_hours, other.approve_within_hours),
        override_names=max(one.override_names, other.override_names),
    )


def _folder(stored: StoredVerdict) -> str:
    return f"{FOLDER}/{stored.verdict.key.surface}/{stored.verdict.key.candidate}"


def _person(name: str) -> str:
    """Return a name as people compare it: capitals, spaces and characters that print nothing make no other person."""
    shown = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in shown if unicodedata.category(c)[0] in "LN")
