"""Why the champion pointer was not moved."""

from enum import StrEnum


class Refusal(StrEnum):
    """Why a promotion or a rollback was refused."""

    NO_VERDICT = "no_verdict"
    VERDICT_FAILED = "verdict_failed"
    VERDICT_INCONCLUSIVE = "verdict_inconclusive"
    VERDICT_EDITED = "verdict_edited"
    VERDICT_INCOMPLETE = "verdict_incomplete"
    OTHER_BYTES = "other_bytes"
    GATE_CHANGED = "gate_changed"
    SUPERSEDED = "superseded"
    NOT_NEWER = "not_newer"
    NOT_FIRST = "not_first"
    BARRED = "barred"
    CANDIDATE_DAMAGED = "candidate_damaged"
    MANIFEST_MISMATCH = "manifest_mismatch"
    SCHEMA_MISMATCH = "schema_mismatch"
    UNNAMED = "unnamed"
    UNTRUSTED = "untrusted"
    NOT_APPROVED = "not_approved"
    SECOND_NAME = "second_name"
    NO_CHAMPION = "no_champion"
    NO_PREVIOUS = "no_previous"
    UNKNOWN_RELEASE = "unknown_release"
    RELEASE_DAMAGED = "release_damaged"
    RETIRED = "retired"
    OTHER_LAKE = "other_lake"


OVERRIDABLE = frozenset(
    {
        Refusal.VERDICT_FAILED,
        Refusal.VERDICT_INCONCLUSIVE,
        Refusal.GATE_CHANGED,
        Refusal.SUPERSEDED,
        Refusal.NOT_NEWER,
        Refusal.BARRED,
        Refusal.NOT_APPROVED,
    }
)
"""Refusals that a named person may overrule; those about identity and integrity are not among them."""


class PromotionRefused(RuntimeError):
    """The champion pointer was not moved; ``code`` says why."""

    def __init__(self, code: Refusal, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
