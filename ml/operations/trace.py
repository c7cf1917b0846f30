"""What a release depends on, followed down to landed files, lake snapshot and teacher."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ml.export.files import MODEL, SCHEMA
from ml.features.projects import project_hash
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.code import git_commit
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from ml.landing.ledger import LEDGER
from ml.releases.manifest import DayContent, Manifest
from ml.releases.release import Release
from ml.releases.store import ReleaseStore
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface

if TYPE_CHECKING:  # a command that shows what is there loads no torch
    from ml.students.checkpoint import Meta

_TEMPLATE = Path(__file__).with_name("lineage.html.j2")


@dataclass(frozen=True)
class Node:
    """One thing that a release depends on.

    Attributes:
        title: What it is.
        facts: {what: value} that identify it.
        rows: A table of its parts, such as one row per day; all rows have the same keys.
        children: What it depends on in turn.
    """

    title: str
    facts: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, str]] = field(default_factory=list)
    children: list["Node"] = field(default_factory=list)

    def walk(self, depth: int = 0) -> Iterator[tuple[int, "Node"]]:
        """Yield (depth, node), this one first."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)


def find_release(store: ReleaseStore, name: str) -> Release:
    """Return a release by its id, or the champion of a surface by the surface's name, whoever signed it.

    Raises:
        ValueError: There is none, or the id stands under two surfaces.
    """
    surfaces = store.surfaces()
    if name in surfaces:
        champion = store.champions.read(name).champion
        if champion is None:
            raise ValueError(f"{name} has no champion")
        return store.release(name, champion)
    homes = [surface for surface in surfaces if name in store.releases(surface)]
    if len(homes) != 1:
        known = [f"{surface}: {', '.join(store.releases(surface)) or 'none'}" for surface in surfaces]
        raise ValueError(f"no release {name!r}; there are {'; '.join(known) or 'none'}")
    return store.release(homes[0], name)


def checkpoint_of(settings: Settings, manifest: Manifest) -> Artifact | None:
    """Return the checkpoint that a release was exported from; None where it is no longer stored."""
    try:
        name = f"models/{manifest.surface}/{manifest.kind}"
        return ArtifactStore(settings.artifacts_dir).get(name, str(manifest.partition), manifest.checkpoint_sha256)
    except FileNotFoundError:
        return None


def trace(settings: Settings, release: Release) -> Node:
    """Return the tree of everything that a release depends on, read from manifest, store and lake."""
    manifest, verdict = release.manifest, release.verdict
    surface = load_surfaces(settings).get(manifest.surface)
    guards = [{"guard": str(g.number), "name": g.name, "outcome": g.outcome.value} for g in verdict.guards]
    judged = Node(
        f"verdict: {verdict.decision}",
        {
            "content hash": release.record.verdict_hash,
            "compared with": verdict.key.champion or "no champion",
            "judged at": verdict.judged_at.isoformat(timespec="seconds"),
            "Dagster run": verdict.run_id or "none",
        },
        guards,
    )
    model = Node(
        "model.onnx",
        {
            "sha256": manifest.onnx_sha256,
            "bytes": f"{(release.path / MODEL).stat().st_size:,}",
            SCHEMA: manifest.feature_schema_hash,
            "Dagster run": manifest.run_ids.get("onnx", "none"),
        },
        children=[_checkpoint(settings, manifest)],
    )
    signed = release.record.override
    facts = {
        "partition": str(manifest.partition),
        "signature": str(release.signed),
        "created at": release.record.created_at.isoformat(timespec="seconds"),
        "path": str(release.path),
    }
    if signed is not None:
        facts["promoted against the gate"] = f"by {signed.by}: {signed.reason}"
    return Node(
        f"{manifest.surface} {release.id}",
        facts,
        children=[judged, model, _code(settings, manifest, surface), Node("libraries", dict(manifest.libraries))],
    )


def difference(before: Release, after: Release) -> list[dict[str, str]]:
    """Return what two releases were made of and measured at, where it differs; rows of ``what`` and both ids."""

    def told(release: Release) -> dict[str, str]:
        content = release.manifest.model_dump(mode="json", exclude={"examples", "soft_labels", "unshown_labels"})
        days = {day.day: day for day in (*release.manifest.examples, *release.manifest.soft_labels)}
        found = {key: value for key, value in content.items() if not isinstance(value, dict | list)}
        found |= {f"library {name}": version for name, version in release.manifest.libraries.items()}
        for teacher in release.manifest.teachers:
            whose = "teacher" if not release.manifest.further_teachers else f"teacher {teacher.name}"
            found |= {f"{whose} {key}": value for key, value in teacher.model_dump(mode="json").items()}
        found["training days"] = _span(release.manifest.train_days)
        found["evaluation days"] = _span(release.manifest.eval_days)
        found["rows"] = f"{sum(day.rows for day in days.values()):,}"
        for guard in release.verdict.guards:
            found |= {f"guard {guard.number}: {c.name}": c.value for c in guard.checks if c.value is not None}
        return {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in found.items()}

    old, new = told(before), told(after)
    return [
        {"what": key, before.id: old.get(key, ""), after.id: new.get(key, "")}
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


def as_page(root: Node) -> str:
    """Return the tree as one HTML page that needs no other file."""
    from ml.operations.page import page

    return page(_TEMPLATE, root=root)


def _checkpoint(settings: Settings, manifest: Manifest) -> Node:
    if manifest.kind == "popularity":
        looked_at = [_days("examples that it was looked at on", manifest.examples), _landed(settings, manifest)]
        facts = {"surface specification": manifest.spec_digest}
        return Node("popularity: nothing was learnt", facts, children=looked_at)
    stored = checkpoint_of(settings, manifest)
    facts = {
        "digest": manifest.checkpoint_sha256,
        "technique": manifest.technique,
        "seed": str(manifest.seed),
        "parameters": f"{manifest.parameters:,}",
    }
    if stored is None:
        facts["stored"] = "no longer"
        return Node(f"checkpoint of the {manifest.kind}", facts, children=[_training_set(settings, manifest, None)])
    meta = stored.json("checkpoint.json")
    facts |= {
        "steps": f"{meta['steps']:,}",
        "trained on": f"{meta['device']}, " + ", ".join(f"{k} {v}" for k, v in meta["versions"].items()),
        "Dagster run": str(stored.meta.get("run_id") or "none"),
    }
    return Node(f"checkpoint of the {manifest.kind}", facts, children=[_training_set(settings, manifest, meta)])


def _training_set(settings: Settings, manifest: Manifest, meta: "Meta | None") -> Node:
    facts = {
        "lake snapshot": str(manifest.snapshot),
        "training days": _span(manifest.train_days),
        "evaluation days": _span(manifest.eval_days),
    }
    if meta:
        facts |= {"rows": f"{meta['rows']:,}", "content hash": meta["content_hash"], "digest": meta["training_set"]}
    children = [_days("examples", manifest.examples)]
    for name, (teacher, soft_labels, unshown_labels) in manifest.labels.items():
        of = f" of {name}" if name else ""
        labels = _days(f"soft labels{of}", soft_labels)
        labels.children.append(
            Node(
                f"teacher {teacher.name} {teacher.version}",
                {
                    "contract hash (model included)": teacher.contract_hash,
                    "outputs": ", ".join(teacher.outputs),
                    "trained through": str(teacher.trained_through or "not said"),
                    "parameters": f"{teacher.parameters:,}" if teacher.parameters else "not known",
                },
            )
        )
        children.append(labels)
        if unshown_labels:
            children.append(_days(f"unshown labels{of}", unshown_labels))
    for held in manifest.vectors:
        node = _days(f"vectors {held.embedding} in {held.table}", held.days)
        told = {"teacher": f"{held.teacher} {held.teacher_version}", "contract hash": held.contract_hash}
        children.append(Node(node.title, told | node.facts, node.rows))
    children.append(_landed(settings, manifest))
    return Node("training set", facts, children=children)


def _landed(settings: Settings, manifest: Manifest) -> Node:
    """Return the landed files at the snapshot that features and labels of the manifest's days can reach."""
    first = min(manifest.train_days or manifest.eval_days) - timedelta(days=settings.feature_window_days)
    surface = load_surfaces(settings).get(manifest.surface)
    last = max(manifest.eval_days) + timedelta(days=surface.label_window_days if surface else 1)
    facts = {
        "days": f"{max(first, settings.first_day)} to {last}",
        "reach": "feature window before, label window after",
    }
    query = (
        "select table_name, count(*), sum(files), sum(rows_loaded), sum(rows_quarantined), "
        f"md5(string_agg(input_hash, ',' order by day)) from {ALIAS}.{LEDGER} where day between ? and ? "
        "group by table_name order by table_name"
    )
    try:
        with Lake(settings, snapshot=manifest.evaluated_at) as lake:
            found = lake.connection.execute(query, [first, last]).fetchall()
    except Exception as error:  # the snapshot may have been expired; the rest of the tree still tells
        return Node("landed files", facts | {"not readable": str(error).splitlines()[0][:300]})
    names = ("table", "days", "files", "rows loaded", "rows quarantined", "hash of the files' hashes")
    rows = [
        {name: f"{value:,}" if isinstance(value, int) else str(value) for name, value in zip(names, row, strict=True)}
        for row in found
    ]
    return Node("landed files", facts, rows)


def _code(settings: Settings, manifest: Manifest, surface: Surface | None) -> Node:
    stated = {
        "git commit": (manifest.git_commit, git_commit()),
        "dbt project": (manifest.dbt_manifest_hash, project_hash(settings)),
        "surface specification": (manifest.spec_digest, surface.digest if surface else None),
        "gate thresholds": (manifest.gate_digest, surface.gate.digest if surface else None),
    }
    return Node(
        "code and specification",
        rows=[
            {
                "what": name,
                "of the release": then or "not known",
                "here and now": "the same" if then == today else str(today),
            }
            for name, (then, today) in stated.items()
        ],
    )


def _days(title: str, content: tuple[DayContent, ...]) -> Node:
    total = sum(day.rows for day in content)
    rows = [{"day": str(d.day), "rows": f"{d.rows:,}", "content hash": d.content_hash} for d in content]
    return Node(title, {"days": str(len(content)), "rows": f"{total:,}"}, rows)


def _span(days: Sequence[object]) -> str:
    return f"{days[0]} to {days[-1]}, {len(days)} days" if days else "none"
