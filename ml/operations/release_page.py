"""A release on a page: what it is, where it stands, how it compares with its control, what it was made of."""

from datetime import date, datetime
from typing import TYPE_CHECKING

from ml.evaluation.outcome import Outcome
from ml.evaluation.results import Evaluation
from ml.foundation.artifacts import ArtifactStore
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import Settings
from ml.releases.release import BOM, CARD, Release
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import GAIN, Check, Verdict

if TYPE_CHECKING:
    from ml.evaluation.results import Difference, Evaluation

_MOVED = {
    "promote": "promoted",
    "popularity": "serves while no student does",
    "override": "promoted against the gate",
    "rollback": "rolled back to",
    "recover": "named to serve after the log was damaged",
}


def state_of(store: ReleaseStore, release: Release) -> str:
    """Return what a release is now, in the words of the champion log."""
    log = store.champions.read(release.manifest.surface)
    last = log.last if log.champion else None
    found = "never served"
    if last is not None and last.release == release.id:
        found = f"champion, version {last.version}"
    elif last is not None and last.challenger is not None and last.challenger.release == release.id:
        found = f"{last.challenger.mode}, share {last.challenger.share:g}"
    elif release.id in log.barred:
        found = "barred"
    elif any(entry.moves and entry.release == release.id for entry in log.entries):
        found = "an earlier champion"
    return f"{found}; the reference" if log.reference == release.id else found


_UNTRAINED = {
    "popularity": "nothing: popularity",
    "incumbent": "days that are not known here: it was trained elsewhere",
}
"""What a release without training days was trained on, by its kind."""


def standing(store: ReleaseStore, release: Release) -> dict[str, str]:
    """Return what a release is, where it stands, and who put it there."""
    manifest = release.manifest
    facts = {
        "release": release.id,
        "surface": manifest.surface,
        "state": state_of(store, release),
        "model": f"{manifest.kind} of {manifest.partition}"
        + (f", technique {manifest.technique}" if manifest.kind == "student" else ""),
        "made": _minute(release.record.created_at),
        "signature": str(release.signed),
        "gain over control": gain(release.verdict) or "not in its verdict",
    }
    moves = [entry for entry in store.history(manifest.surface) if entry.moves and entry.release == release.id]
    if moves:
        facts[_MOVED[moves[-1].action]] = f"{_minute(moves[-1].at)} by {moves[-1].by}: {moves[-1].reason}"
    elif (signed := release.record.override) is not None:
        facts["against the gate"] = f"{signed.by}: {signed.reason}"
    return facts


def entries(store: ReleaseStore, surface: str) -> list[dict[str, str]]:
    """Return a row per entry of the champion log, newest first, with the columns that any of them fills."""
    log = store.champions.read(surface)
    rows = [
        {
            "number": str(entry.number),
            "at": _minute(entry.at),
            "action": entry.action,
            "release": entry.release,
            "by": entry.by,
            "reason": entry.reason,
            "signature": str(log.signed[entry.number]),
            "gain over control": _gain_of(store, surface, entry.release),
            "beside it": f"{entry.challenger.mode} {entry.challenger.release}" if entry.challenger else "",
            "barred": ", ".join(entry.barred),
            "retired": ", ".join(entry.retired),
        }
        for entry in reversed(log.entries)
    ]
    filled = {name for row in rows for name, value in row.items() if value}
    return [{name: value for name, value in row.items() if name in filled} for row in rows]


def gain(verdict: Verdict) -> str:
    """Say what the student gains over its control on each task that decides, with the interval; AUC x100."""
    said = []
    for check in verdict.gains():
        task, _, metric = check.name.removesuffix(GAIN).rpartition("_")
        assert isinstance(check.value, float)
        scale, digits = (100, 2) if metric == "auc" else (1, 3)
        value, *ends = (f"{scale * figure:+.{digits}f}" for figure in (check.value, *(check.interval or ())))
        said.append(f"{task} {value} [{', '.join(ends)}]" if ends else f"{task} {value}")
    return "; ".join(said)


def _gain_of(store: ReleaseStore, surface: str, release: str) -> str:
    try:
        return gain(store.release(surface, release).verdict)
    except FileNotFoundError:  # of a release that housekeeping removed, the log still tells
        return ""
    except DamagedError:
        return "damaged"


def not_shown(release: Release) -> list[dict[str, str]]:
    """Return a row per task, and per slice and task, in which its verdict warned of the gain over the control."""
    return [
        {"where": check.name.removesuffix(GAIN), "student - control": _short(check), "because": check.detail}
        for guard in release.verdict.guards
        for check in guard.checks
        if check.outcome is Outcome.WARN and check.name.endswith(GAIN)
    ]


def _short(check: Check) -> str:
    ends = f" [{check.interval[0]:+.4f}, {check.interval[1]:+.4f}]" if check.interval else ""
    return f"{check.value:+.4f}{ends}" if isinstance(check.value, float) else str(check.value or "")


def provenance(release: Release) -> dict[str, str]:
    """Return what a release was made of, in a few lines; the manifest has every day and hash."""
    manifest = release.manifest
    rows = sum(day.rows for day in manifest.examples if day.day in manifest.train_days)
    facts = {
        "trained on": f"{_span(manifest.train_days)}, {rows:,} rows"
        if manifest.train_days
        else _UNTRAINED[manifest.kind],
        "evaluated on": _span(manifest.eval_days),
        "teacher": ", ".join(f"{of.name} {of.version}" for of in manifest.teachers) or "none",
        "lake snapshot": " then ".join(map(str, dict.fromkeys((manifest.snapshot, manifest.evaluated_at)))),
        "git commit": manifest.git_commit or "not known",
        "seed": str(manifest.seed),
        "parameters": f"{manifest.parameters:,}",
        "model.onnx": f"sha256 {manifest.onnx_sha256}",
        "card": str(release.path / CARD),
    }
    if BOM in release.record.files:
        facts["bill of materials"] = str(release.path / BOM)
    if manifest.overrides:
        facts["settings of this run"] = ", ".join(f"{name} {value}" for name, value in manifest.overrides.items())
    return facts


def figures(settings: Settings, release: Release) -> list[dict[str, str]]:
    """Return a row per task: student and control, their difference with its interval, and the labelled rows.

    Empty where the stored evaluation of the release's day is about another model.
    """
    evaluation = _evaluation(settings, release)
    if evaluation is None:
        return []
    rows = []
    for task, kind in evaluation.kinds.items():
        if not (evaluation.has("student", task) and evaluation.has("control", task)):
            continue
        scale, digits = (100, 2) if kind == "binary" else (1, 3)
        gain = evaluation.difference("student", "control", task)
        shown = [f"{scale * value:+.{digits}f}" for value in (gain.estimate, gain.lo, gain.hi)]
        models = {m: f"{scale * evaluation.metric(m, task):.{digits}f}" for m in ("student", "control")}
        difference = f"{shown[0]} [{shown[1]}, {shown[2]}]" + ("" if gain.flag is None else f" {gain.flag}")
        metric = evaluation.primary(task).upper() + (" x100" if kind == "binary" else "")
        rows.append({"task": f"{task} {metric}", **models, "student - control": difference, **_counted(gain)})
    return rows


def _counted(figure: "Difference") -> dict[str, str]:
    effective = "" if figure.effective_users is None else f"{figure.effective_users:,.0f}"
    return {"rows": f"{figure.n:,}", "effective users": effective}


def _evaluation(settings: Settings, release: Release) -> "Evaluation | None":
    manifest = release.manifest
    name = f"models/{manifest.surface}/evaluation"
    stored = ArtifactStore(settings.artifacts_dir).latest(name, str(manifest.partition))
    if stored is None:
        return None
    evaluation = Evaluation.from_json(stored.read("evaluation.json").decode())
    return evaluation if evaluation.models.get(manifest.kind) == manifest.checkpoint_sha256 else None


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _span(days: tuple[date, ...]) -> str:
    return f"{days[0]} to {days[-1]}, {len(days)} days"
