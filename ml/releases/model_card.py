"""The model card of a release: one HTML file that needs nothing else to be read."""

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from ml.evaluation.outcome import Outcome
from ml.evaluation.results import SHOWN, EvaluationFile, FigureRow, InputRow, LinearGain, OffPolicyRow
from ml.releases.manifest import Manifest
from ml.releases.verdicts import GuardResult, Override, Verdict

if TYPE_CHECKING:
    import jinja2

_TEMPLATE = Path(__file__).with_name("model_card.html.j2")
_NONE = "\N{EN DASH}"
_MODELS = ("student", "control", "teacher", "champion", "baseline", "incumbent")


class Compared(FigureRow):
    """A difference to the model ``against``; ``bar`` places its interval on an axis of 0 to 100."""

    against: str
    bar: NotRequired[dict[str, float]]


class OfSlice(TypedDict):
    """A slice's figure of one task, and the difference to the other ranker."""

    slice: str
    task: str
    metric: str
    own: FigureRow
    delta: Compared | None


class Bar(InputRow):
    """What an input is worth to a task, and the length of its bar of 100."""

    bar: float


class Worth(TypedDict):
    """What an input is worth, by task."""

    input: str
    tasks: dict[str, Bar]


class Earned(TypedDict):
    """What the first choices of one model would earn on one task, by estimator, and how much more than was shown."""

    task: str
    model: str
    snips: OffPolicyRow
    dr: OffPolicyRow
    over: OffPolicyRow | None


def render_model_card(
    manifest: Manifest,
    verdict: Verdict,
    *,
    release: str,
    evaluation: EvaluationFile | None = None,
    plots: Mapping[str, bytes] | None = None,
    override: Override | None = None,
    signing_key: str | None = None,
    bom: str | None = None,
) -> str:
    """Return the model card as HTML.

    Args:
        manifest: What the model was made of.
        verdict: What the gate decided.
        release: Id of the release.
        evaluation: ``json.loads(Evaluation.to_json())``; without it the card shows the guards only.
        plots: PNG images by title.
        override: A person's decision against the gate.
        signing_key: Id of the key that signs the release, or identity and issuer.
        bom: File of the bill of materials, beside the card.
    """
    results = [r for r in (evaluation or {}).get("results", ()) if r["inputs"] == "serving"]
    images = {t: base64.b64encode(png).decode() for t, png in (plots or {}).items()}
    return _template().render(
        m=manifest,
        verdict=verdict,
        release=release,
        override=override,
        signing_key=signing_key,
        bom=bom,
        evaluation=evaluation,
        quality=_quality(results, manifest.kind),
        models=[m for m in _MODELS if m != "incumbent" or any(r["model"] == m for r in results)],
        slices=_slices(results, manifest.kind),
        serving=_serving(verdict),
        teacher=_teacher(results, evaluation),
        inputs=_inputs(evaluation),
        earned=_earned(evaluation),
        images=images,
        limits=[*_limits(manifest, verdict, results), *_undertrained(evaluation)],
        train_rows=sum(d.rows for d in manifest.examples if d.day in manifest.train_days),
        eval_rows=sum(d.rows for d in manifest.examples if d.day in manifest.eval_days),
        label_rows={name or "": sum(day.rows for day in days) for name, (_, days, _) in manifest.labels.items()},
    )


def _serving(verdict: Verdict) -> GuardResult | None:
    """Return guard ``serving`` with its figures: times of the first answer and of a request, and the champion's."""
    for guard in verdict.guards:
        figures = tuple(check for check in guard.checks if isinstance(check.value, float))
        if guard.name == "serving" and figures:
            return guard.model_copy(update={"checks": figures})
    return None


def _quality(results: Sequence[FigureRow], kind: str) -> list[dict[str, object]]:
    """Return one row per task: each model's primary metric, and the candidate's differences with interval bars."""
    rows = []
    for task, metric in _primaries(results).items():
        cells = {r["model"]: r for r in results if _is(r, task, metric, "all") and r["reference"] is None}
        differences = [d for d in (_difference(results, kind, m, task, metric) for m in _MODELS) if d]
        rows.append({"task": task, "metric": metric, "models": cells, "differences": _with_bars(differences)})
    return rows


def _teacher(results: Sequence[FigureRow], evaluation: EvaluationFile | None) -> list[dict[str, object]]:
    """Return one row per task: what leaving the teacher out costs, and what could be had from it at least."""
    stacked = {row["task"]: row for row in (evaluation or {}).get("transfer", ())}
    rows = []
    for task, metric in _primaries(results).items():
        gain = _difference(results, "student", "control", task, metric)
        if gain is not None:
            rows.append({"task": task, "metric": metric, "gain": gain, "stacked": stacked.get(task)})
    return rows


def _earned(evaluation: EvaluationFile | None) -> list[Earned]:
    """Return one row per task and model: what its first choices would earn, where exposures carry propensities."""
    known = (evaluation or {}).get("off_policy")
    cells = {(v["task"], v["model"], v["reference"], v["estimator"]): v for v in (known or {}).get("values", ())}
    return [
        {
            "task": task,
            "model": model,
            "snips": cells[task, model, None, "snips"],
            "dr": cells[task, model, None, "dr"],
            "over": cells.get((task, model, SHOWN, "dr")),
        }
        for task in dict.fromkeys(task for task, *_ in cells)
        for model in _MODELS
        if (task, model, None, "snips") in cells and (task, model, None, "dr") in cells
    ]


def _inputs(evaluation: EvaluationFile | None) -> list[Worth]:
    """Return one row per input, the most valuable first, with what it is worth to each task, bars by task."""
    reach: dict[str, float] = {}
    known: list[tuple[InputRow, float]] = []
    for v in (evaluation or {}).get("inputs", ()):
        if v["drop"] is not None and v["lo"] is not None and v["hi"] is not None:
            known.append((v, v["drop"]))
            reach[v["task"]] = max(reach.get(v["task"], 0.0), abs(v["hi"]), abs(v["lo"]))
    rows: dict[str, Worth] = {}
    for v, drop in known:
        share = max(drop, 0.0) / (reach[v["task"]] or 1.0)
        rows.setdefault(v["input"], {"input": v["input"], "tasks": {}})["tasks"][v["task"]] = {**v, "bar": 100 * share}
    return list(rows.values())


def _slices(results: Sequence[FigureRow], kind: str) -> list[OfSlice]:
    rows: list[OfSlice] = []
    for name in dict.fromkeys(r["slice"] for r in results if r["slice"] != "all"):
        for task, metric in _primaries(results).items():
            cells = [r for r in results if _is(r, task, metric, name)]
            own = next((r for r in cells if (r["model"], r["reference"]) == (kind, None)), None)
            if own is not None:
                other = "control" if kind == "student" else "student"
                delta = _difference(results, kind, other, task, metric, name)
                rows.append({"slice": name, "task": task, "metric": metric, "own": own, "delta": delta})
    return rows


def _lost(results: Sequence[FigureRow], kind: str) -> list[str]:
    """Say in which slices the student's interval against the control lies below 0, beside the figure of all rows."""
    found = []
    for row in _slices(results, kind) if kind == "student" else []:
        delta = row["delta"]
        if delta and delta["hi"] is not None and delta["hi"] < 0:
            whole = _difference(results, kind, "control", row["task"], row["metric"])
            figure = f"{row['slice'].replace('_', ' ')} {row['task']} {delta['value']:+.4f}"
            found.append(figure + (f", all rows {_delta(whole['value'])}" if whole else ""))
    return found


def _primaries(results: Sequence[FigureRow]) -> dict[str, str]:
    found: dict[str, str] = {}
    for r in results:
        if r["metric"] in ("auc", "r2"):
            found.setdefault(r["task"], r["metric"])
    return found


def _is(result: FigureRow, task: str, metric: str, name: str) -> bool:
    return (result["task"], result["metric"], result["slice"]) == (task, metric, name)


def _difference(
    results: Sequence[FigureRow], model: str, reference: str, task: str, metric: str, name: str = "all"
) -> Compared | None:
    for r in results:
        if not _is(r, task, metric, name) or r["reference"] is None:
            continue
        if (r["model"], r["reference"]) == (model, reference):
            return {**r, "against": reference}
        if (r["model"], r["reference"]) == (reference, model):
            value, lo, hi = _minus(r["value"]), _minus(r["hi"]), _minus(r["lo"])
            return {**r, "value": value, "lo": lo, "hi": hi, "against": reference}
    return None


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _with_bars(differences: list[Compared]) -> list[Compared]:
    """Place each interval on a common axis of 0 to 100 with zero in the middle."""
    ends = {i: {"lo": d["lo"], "hi": d["hi"], "value": d["value"]} for i, d in enumerate(differences)}
    known = {i: {k: v for k, v in of.items() if v is not None} for i, of in ends.items() if None not in of.values()}
    reach = max((abs(of[k]) for of in known.values() for k in ("lo", "hi")), default=0) or 1
    for i, of in known.items():
        differences[i]["bar"] = {k: 50 + 46 * v / reach for k, v in of.items()}
    return differences


def _limits(manifest: Manifest, verdict: Verdict, results: Sequence[FigureRow]) -> list[str]:
    found = [
        "Offline figures come from exposures that earlier rankers chose to show; they say how well the model explains "
        "those, not what users would do under it. Only a live experiment does.",
        f"Intervals are 95 % over users of {len(manifest.eval_days)} evaluation day(s); they do not cover the spread "
        "over training seeds or over later days.",
    ]
    if manifest.kind == "incumbent":
        found.insert(0, "This is the app's present ranker, trained elsewhere: no figure of it was judged by the gate.")
    if manifest.kind == "popularity":
        found.insert(
            0, "This is popularity, not a student: it learnt nothing, knows no user, and no figure was judged."
        )
    for teacher in manifest.teachers:
        if teacher.trained_through is None:
            whose = f" {teacher.name}" if manifest.further_teachers else ""
            found.append(
                f"The teacher{whose} does not say what it was trained through: it may have seen the evaluation days."
            )
    skipped = [f"{g.number} ({g.name})" for g in verdict.guards if g.outcome is Outcome.NOT_EVALUATED]
    if skipped:
        found.append(f"Not evaluated: guard {', guard '.join(skipped)}.")
    weak = sorted({f"{r['slice']}/{r['task']}" for r in results if r.get("flag") and r["reference"] is None})
    if weak:
        found.append(f"Too few rows for a claim: {', '.join(weak)}.")
    if lost := _lost(results, manifest.kind):
        found.append(f"The student loses by its interval against the control: {'; '.join(lost)}.")
    if manifest.overrides:
        found.append(f"Trained with settings other than the surface's: {manifest.overrides}.")
    return found


def _undertrained(evaluation: EvaluationFile | None) -> list[str]:
    """Say of which tasks the control lies below a linear model of the same inputs, by its interval."""
    found: list[str] = []
    for row in (evaluation or {}).get("linear", ()):
        lo, hi = row["lo"], row["hi"]
        if lo is not None and hi is not None and lo > 0:
            found.append(str(LinearGain(**{**row, "lo": lo, "hi": hi})))
    return found


@cache
def _template() -> "jinja2.Template":
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    filters = {"figure": _figure, "delta": _delta, "integer": _integer, "percent": _percent, "whole": _whole}
    environment.filters |= filters
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))


def _figure(value: object) -> str:
    if not isinstance(value, float):
        return _NONE if value is None else str(value)
    if 0.1 <= abs(value) < 100:
        return f"{value:.4f}".rstrip("0").rstrip(".") if value.is_integer() else f"{value:.4f}"
    return f"{value:.3g}" if abs(value) < 0.1 else f"{value:,.0f}"


def _delta(value: float | None) -> str:
    return _NONE if value is None else f"{value:+.4f}"


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.0f} %"


def _whole(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else _NONE


def _integer(value: int | None) -> str:
    return _NONE if value is None else f"{value:,}"
