"""Asset checks of each surface: the examples, the soft labels, and the gate on the exported candidate."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from math import isfinite

import dagster as dg

from assets.names import surface_key
from assets.partitions import day_partitions, partition_days, student_partitions
from checks.names import EXAMPLES_CHECK, GUARDS, SOFT_LABELS_CHECK, VERDICT_CHECK, guard_check
from ml.lake import Lake
from ml.settings import Settings
from ml.store.verdicts import Check, Guard, Outcome, StoredVerdict
from ml.surfaces.spec import Surface

_BLOCKS = (Outcome.FAIL, Outcome.INCONCLUSIVE)


def build_checks(settings: Settings, surfaces: Mapping[str, Surface]) -> list[dg.AssetChecksDefinition]:
    """Return every check of every surface."""
    found: list[dg.AssetChecksDefinition] = []
    for surface in surfaces.values():
        found += [_examples(settings, surface), _soft_labels(settings, surface), _gate(settings, surface)]
    return found


def _examples(settings: Settings, surface: Surface) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=surface_key(surface.name, "examples"),
        name=EXAMPLES_CHECK,
        blocking=True,
        partitions_def=day_partitions(settings),
        description="Guard 1: every day has enough rows, unique keys, finite values, plausible label rates."
        "\n\n**If it fails**: the reason names day, value and threshold; look at that day in the landing zone and its "
        "quarantine, correct it, and run `base_tables_job` and `ranking_tables_job` for it. Nothing learns from it.",
    )
    def examples_are_sound(
        context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> dg.AssetCheckResult:
        from checks.gate import check_examples

        with Lake(settings) as lake:
            return _result(check_examples(lake, surface, partition_days(context)))

    return examples_are_sound


def _soft_labels(settings: Settings, surface: Surface) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=surface_key(surface.name, "soft_labels"),
        name=SOFT_LABELS_CHECK,
        blocking=True,
        partitions_def=day_partitions(settings),
        description="Guard 2: every example has one finite label of the pinned teacher; scoring again gives the same."
        "\n\n**If it fails**: materialize the day again if coverage is low or scores are others; where more inputs are "
        "defaulted, a column of `teacher_inputs` is empty: see `defaulted_inputs` of the asset.",
    )
    def soft_labels_are_sound(
        context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> dg.AssetCheckResult:
        from checks.gate import check_soft_labels
        from ml.teacher.contract import teacher_contract

        with Lake(settings) as lake:
            return _result(check_soft_labels(lake, surface, partition_days(context), teacher_contract(settings)))

    return soft_labels_are_sound


def _gate(settings: Settings, surface: Surface) -> dg.AssetChecksDefinition:
    key = surface_key(surface.name, "onnx")
    partitions = student_partitions(settings, surface)

    def spec(name: str, description: str) -> dg.AssetCheckSpec:
        return dg.AssetCheckSpec(name, asset=key, blocking=True, description=description, partitions_def=partitions)

    specs = [spec(guard_check(number), f"{_MEANING[number]}\n\n**If it fails**: {_CURE[number]}") for number in GUARDS]
    decision = (
        "The gate's decision about exactly this candidate; promotion reads it again.\n\n**If it fails**: the champion "
        "goes on serving. The reason names each guard that failed; what to do stands there."
    )
    specs.append(spec(VERDICT_CHECK, decision))

    @dg.multi_asset_check(specs=specs, name=f"{surface.name}_gate")
    def gate(
        context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> Iterator[dg.AssetCheckResult]:
        from checks.gate import judge
        from ml.pipeline import find, read_evaluation

        days = partition_days(context)
        stored = [
            judge(
                settings,
                surface,
                find(settings, surface, "onnx", day),
                read_evaluation(settings, surface, day),
                run_id=context.run.run_id,
            )
            for day in days
        ]
        for number in GUARDS:
            yield _guard_result(key, [s.verdict.guard(number) for s in stored], stored)
        yield _verdict_result(key, days, stored)

    return gate


def _result(checks: Sequence[Check]) -> dg.AssetCheckResult:
    failed = [check for check in checks if check.outcome in _BLOCKS]
    return dg.AssetCheckResult(
        passed=not failed,
        description="; ".join(map(_failure, failed)) or None,
        metadata={
            "checks": dg.MetadataValue.md(_table(checks)),
            "failed": len(failed),
            "checked": len(checks),
            **_numbers(checks),
        },
    )


def _guard_result(key: dg.AssetKey, guards: Sequence[Guard], stored: Sequence[StoredVerdict]) -> dg.AssetCheckResult:
    outcome = min((guard.outcome for guard in guards), key=_SEVERITY.index)
    checks = [check for guard in guards for check in guard.checks]
    return dg.AssetCheckResult(
        check_name=guard_check(guards[0].number),
        asset_key=key,
        passed=outcome in (Outcome.PASS, Outcome.NOT_EVALUATED),
        severity=dg.AssetCheckSeverity.ERROR if outcome in _BLOCKS else dg.AssetCheckSeverity.WARN,
        description="; ".join(dict.fromkeys(guard.reason for guard in guards if guard.reason)) or None,
        metadata={
            "outcome": outcome.value,
            "checks": dg.MetadataValue.md(_table(checks) if checks else "Nothing was measured."),
            "verdict": dg.MetadataValue.path(str(stored[-1].path)),
            **_numbers(guards[-1].checks),
        },
    )


def _verdict_result(key: dg.AssetKey, days: Sequence[date], stored: Sequence[StoredVerdict]) -> dg.AssetCheckResult:
    refused = [s for s in stored if s.verdict.decision != "pass"]
    lines = [line for s in refused for line in s.verdict.failures()]
    summary = "\n".join(
        ["| partition | decision | champion | verdict |", "|---|---|---|---|"]
        + [
            f"| {day} | **{s.verdict.decision}** | {s.verdict.key.champion or 'none'} | `{s.content_hash[:16]}` |"
            for day, s in zip(days, stored, strict=True)
        ]
    )
    return dg.AssetCheckResult(
        check_name=VERDICT_CHECK,
        asset_key=key,
        passed=not refused,
        description="; ".join(lines)[:2000] or None,
        metadata={
            "decision": stored[-1].verdict.decision,
            "decisions": dg.MetadataValue.md(summary),
            "verdict": dg.MetadataValue.path(str(stored[-1].path)),
            "content_hash": stored[-1].content_hash,
            "candidate": stored[-1].verdict.key.candidate,
        },
    )


def _failure(check: Check) -> str:
    """Say what was found and wanted, and where: the detail of a measurement is its day."""
    if check.value is None:
        return f"{check.name}: {check.detail}"
    found = f"{check.name} is {_text(check.value)}, wanted {check.threshold}"
    return f"{found} ({check.detail})" if check.detail else found


def _table(checks: Sequence[Check]) -> str:
    lines = ["| check | outcome | value | threshold | interval | n | |", "|---|---|---|---|---|---|---|"]
    for c in checks:
        interval = f"{c.interval[0]:.4g} to {c.interval[1]:.4g}" if c.interval else ""
        n = f"{c.n:,}" if c.n is not None else ""
        cells = (c.name, c.outcome.value, _text(c.value), c.threshold, interval, n, c.detail)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines)


def _numbers(checks: Sequence[Check]) -> dict[str, float]:
    """Return what was measured under the checks' names; the UI plots it over the partitions."""
    return {c.name: c.value for c in checks if isinstance(c.value, float) and isfinite(c.value)}


def _text(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.6g}"


_SEVERITY = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.WARN, Outcome.PASS, Outcome.NOT_EVALUATED)

_MEANING = {
    1: "Counts, keys, ranges, label rates and freshness of the examples, measured again at the recorded snapshot.",
    2: "Coverage, finiteness, teacher, defaulted inputs of the soft labels at that snapshot; a sample scored again.",
    3: "Good enough by itself, better than popularity, not worse than the champion.",
    4: "The same on new releases, new users and tail items, with a wider margin; too few rows is a warning.",
    5: "Predicted probabilities agree with observed rates.",
    6: "Scores and rankings do not jump against the champion.",
    7: "The exported file is sound and computes what the checkpoint computes.",
    8: "A clean process loads, warms and answers in time.",
    9: "The present champion can be restored.",
    10: "The manifest agrees with what the lake says; nothing knows the answer beforehand.",
}

_CURE = {
    1: "a table changed after training: `examples_are_sound` names the day. Mend it and run the release job again.",
    2: "labels changed or were lost after training: materialize `soft_labels` of the days named, then the release job.",
    3: "a candidate that is worse is rightly refused. If the champion changed since, materialize `evaluation` again; "
    "if the interval is too wide, wait for the days that the reason names.",
    4: "the reason names the slice. Compare control and student there in `evaluation`; too few rows only warn.",
    5: "the reason names the task. Look for a day whose label rate jumped, in `examples_are_sound`.",
    6: "rankings would change at once for users: look for an input that jumped. If the change is wanted, a person says "
    "so with `crossfade release override`.",
    7: "the export is at fault, not the data: the reason names output or operator. Materialize `onnx` again; if that "
    "fails, the versions of torch, onnx and onnxruntime changed.",
    8: "a busy machine answers late: materialize `onnx` again when it is idle. A model that does not load says why.",
    9: "the champion's files are damaged or gone: restore `artifacts/` from the backup before anything is promoted.",
    10: "the reason names what is not as stated. After a change of surface, teacher, champion or rows, run the release "
    "job again; an AUC that is too good is a leak, and no release.",
}
