"""What an experiment records: figures of each arm's users, day by day."""

import pyarrow as pa

from ml.foundation.lake import ML

NEW_RELEASE_DAYS = 7
"""A release counts as new up to this age."""

METRICS = ("engagement", "discovery", "new_releases")
"""Figures of an experiment, summed per user and day."""

USER_DAYS_TABLE = f"{ML}.experiment_user_days"
"""Live experiments of a home, all in one table."""

USER_DAYS_SCHEMA = pa.schema(
    [
        ("experiment", pa.string()),
        ("name", pa.string()),
        ("preset", pa.string()),
        ("world", pa.int64()),
        ("world_config", pa.string()),
        ("surface", pa.string()),
        ("arm", pa.string()),
        ("release", pa.string()),
        ("estimate", pa.string()),
        ("day", pa.date32()),
        ("user_id", pa.int64()),
        ("requests", pa.int64()),
        *((metric, pa.float64()) for metric in METRICS),
    ]
)
"""One row per world, surface, arm, estimate, day and user; ``experiment`` identifies what was run."""
