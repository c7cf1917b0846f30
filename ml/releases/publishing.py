"""Publishing a release: candidate, verdict, model card and bill of materials, in one folder that appears at once."""

from ml.foundation.files import FileStore, sha256_bytes
from ml.foundation.sealed import DamagedError, seal
from ml.foundation.signing import Keyring, UntrustedError
from ml.releases.bill_of_materials import bill_of_materials
from ml.releases.manifest import Manifest
from ml.releases.model_card import render_model_card
from ml.releases.promotion import Proposal
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.release import (
    BOM,
    CANDIDATE,
    CARD,
    RELEASE,
    SIGNATURE,
    VERDICT,
    ReleaseRecord,
    read_release,
    release_id,
    require_trusted,
)
from ml.releases.verdicts import Override, StoredVerdict, now


def publish(
    files: FileStore,
    keys: Keyring,
    proposal: Proposal,
    stored: StoredVerdict,
    manifest: Manifest,
    override: Override | None = None,
    overruled: tuple[str, ...] = (),
) -> str:
    """Publish the release of a candidate, whole or not at all, and return its id.

    Args:
        files: Where releases lie.
        keys: What signs them.
        proposal: The candidate, and what its model card shows.
        stored: The verdict that it is released on.
        manifest: Of the candidate.
        override: A person's decision against the gate; it stands in the release if it overruled something.
        overruled: Refusals that it overruled.

    Raises:
        PromotionRefused: A release of that id is there and damaged, or nobody who is trusted signed it.
    """
    candidate = proposal.candidate
    overridden = override if overruled else None
    release = release_id(manifest.partition, candidate.digest, stored.content_hash, overridden)
    content = {name: candidate.read(name) for name in CANDIDATE} | {
        CARD: _card(proposal, stored, manifest, release, overridden, keys.signer),
        BOM: bill_of_materials(manifest, stored.verdict, release=release, card=CARD),
        VERDICT: stored.path.read_bytes(),
    }
    record = ReleaseRecord(
        id=release,
        surface=manifest.surface,
        partition=manifest.partition,
        candidate=candidate.digest,
        verdict_hash=stored.content_hash,
        override=overridden,
        overruled=overruled,
        files={name: sha256_bytes(data) for name, data in content.items()},
        created_at=now(),
        signing_key=keys.signer,
    )
    content[RELEASE] = seal(record.model_dump(mode="json"))
    if (bundle := keys.sign_files(release, record.signed_files(content[RELEASE]))) is not None:
        content[SIGNATURE] = bundle
    files.create_folder(f"releases/{manifest.surface}/{release}", content)
    try:
        require_trusted(keys, read_release(files, manifest.surface, release, keys))
    except UntrustedError as error:
        raise PromotionRefused(Refusal.UNTRUSTED, str(error)) from error
    except DamagedError as error:
        raise PromotionRefused(Refusal.RELEASE_DAMAGED, str(error)) from error
    return release


def _card(
    proposal: Proposal,
    stored: StoredVerdict,
    manifest: Manifest,
    release: str,
    override: Override | None,
    signing_key: str | None,
) -> bytes:
    return render_model_card(
        manifest,
        stored.verdict,
        release=release,
        evaluation=proposal.evaluation,
        plots=proposal.plots,
        override=override,
        signing_key=signing_key,
        bom=BOM,
    ).encode()
