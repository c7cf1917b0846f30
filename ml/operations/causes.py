"""What is told to people who do not look: each cause once, with what to do about it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A kind of thing that somebody should hear of.

    Attributes:
        name: Its name in records.
        title: What happened; what it happened to follows.
        means: When it is told.
        to_do: What to do about it, one sentence.
        lasts: It is told while it is so, and over when it no longer is; otherwise it happened at one moment.
        urgent: It keeps rankings from being right or from being served; the rest can wait for the morning.
    """

    name: str
    title: str
    means: str
    to_do: str
    lasts: bool = False
    urgent: bool = True


RUN_FAILED = Cause(
    "run_failed",
    "A run failed",
    "A run failed and is not tried again. It is over when the same job succeeds for the same days.",
    "Open the run, mend what its message names, and choose Re-execute from failure.",
)
DAMAGED = Cause(
    "damaged_file",
    "A file is not what was written",
    "`verify_job`, a training or a merge read a file whose bytes differ from the hash that was recorded.",
    "Put the file back from a copy, or materialize the days that the message names; then run verify_job.",
)
GATE_REFUSED = Cause(
    "gate_refused",
    "The gate refused a candidate",
    "A check of the gate failed, its verdict is no pass, or promotion was refused. The champion goes on serving.",
    "Read the verdict: crossfade release verdict SURFACE says which guard refused, and what to do.",
    urgent=False,
)
WAITS = Cause(
    "waits_for_a_person",
    "A candidate waits for a person",
    "A candidate passed on a surface of `promotion: mode: manual`, and nobody has approved it. It is over when "
    "somebody does, when its time is, and when a newer candidate comes.",
    "Look at it, and say yes by name: crossfade release approve SURFACE --partition DAY --reason ..., or approve_job.",
    lasts=True,
    urgent=False,
)
CHECK_FAILED = Cause(
    "check_failed",
    "A check failed",
    "Another check of severity ERROR failed: of examples, soft labels or a dbt test.",
    "Open the check: its description says what it looks at and what to do.",
    urgent=False,
)
SERVED_SKEWED = Cause(
    "served_skewed",
    "What serves is not what was measured",
    "The check of `<surface>/served_skew` failed: served inputs differ from the training rows, or scores, calibration "
    "or drift of what was shown left their bounds. It is over when the check passes for the same days.",
    "Open the check: it names the input or figure; docs/how-to/log_what_is_served.md says where such things come from.",
)
ROLLED_BACK = Cause(
    "rolled_back",
    "A champion was rolled back",
    "A person or `serving_health_sensor` moved the champion back, or gave its place up.",
    "Find out why before the next candidate comes: crossfade release list SURFACE has the reason.",
)
TICK_FAILED = Cause(
    "tick_failed",
    "A sensor or schedule fails",
    "For three minutes, the last look of a sensor or schedule that is on ended with an error: it asks for nothing.",
    "Open its ticks and mend what the error names; it looks again by itself.",
    lasts=True,
)
DAY_LATE = Cause(
    "day_late",
    "A day has not landed",
    "The day after the newest landed one is not there `CROSSFADE_LATE_AFTER_HOURS` after it ended.",
    "Bring the files or markers that the message names; landing_sensor takes them by itself.",
    lasts=True,
)
FEATURES_OLD = Cause(
    "features_old",
    "The features that serve are too old",
    "The published features are older than `CROSSFADE_MAX_FEATURE_AGE_DAYS`: servers are not ready with them.",
    "Land the days since then, or materialize features/serving_snapshot.",
    lasts=True,
)
UNSERVED = Cause(
    "unserved",
    "A champion is not served",
    "The server at `CROSSFADE_SERVE_URL` is not ready or answers with another release, for longer than "
    "`CROSSFADE_UNSERVED_MINUTES`.",
    "Look at /v2/health/ready of the server and at its log; restart it, or roll back what it cannot load.",
    lasts=True,
)
SERVER_TROUBLED = Cause(
    "server_troubled",
    "The server answers, and something is wrong",
    "`details` of `/v2/health/ready` names a pointer, release or features file that is damaged or gone.",
    "Publish the features again, or crossfade release recover SURFACE; the server takes up what is mended.",
    lasts=True,
)
RELEASE_LOST = Cause(
    "release_lost",
    "A release or its pointer is gone or damaged",
    "The champion log of a surface is not whole, or the folder of its champion lacks a file.",
    "Put champion/, heads/ and releases/ back from a backup, or: crossfade release recover SURFACE.",
    lasts=True,
)
CANNOT_LOOK = Cause(
    "cannot_look",
    "Something cannot be looked at",
    "`alert_sensor` could not look at a part: nothing else is known of that part.",
    "Run crossfade doctor, which looks at the same and says what to do.",
    lasts=True,
)
DEFINITIONS_BROKEN = Cause(
    "definitions_broken",
    "The settings or files of the app cannot be read",
    "Told by `crossfade watch`: settings, contract, sources or a surface's YAML has a fault, so nothing runs.",
    "Mend the file or variable that the message names: crossfade check finds all faults; then reload the location.",
    lasts=True,
)
NOBODY_LOOKS = Cause(
    "nobody_looks",
    "Nothing is looked after",
    "Told by `crossfade watch`: `alert_sensor` has not looked for a while: the daemon is down, the code location does "
    "not load, or the sensor is off. No other cause of this table is told until then.",
    "See that the daemon runs, that Deployment in the UI shows no error, and that alert_sensor is on.",
    lasts=True,
)

CAUSES = {
    cause.name: cause
    for cause in (
        RUN_FAILED,
        DAMAGED,
        GATE_REFUSED,
        WAITS,
        CHECK_FAILED,
        SERVED_SKEWED,
        ROLLED_BACK,
        TICK_FAILED,
        DAY_LATE,
        FEATURES_OLD,
        UNSERVED,
        SERVER_TROUBLED,
        RELEASE_LOST,
        CANNOT_LOOK,
        DEFINITIONS_BROKEN,
        NOBODY_LOOKS,
    )
}
"""Every cause, in the order of the page."""
