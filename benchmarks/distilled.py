"""What the distilled student costs at serving, beside its control: operators, bytes, time of a request.

    python -m benchmarks.distilled [--home .crossfade] [--partition 2026-02-01]

The home holds checkpoints of both, as after `make demo`. Both are exported and asked in turn in a clean process.
"""

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path

from ml.evaluation.bootstrap import CONFIDENCE
from ml.export.files import MODEL, SCHEMA
from ml.export.onnx import export_ranker, inspect
from ml.export.schema import feature_schema
from ml.foundation.settings import Settings
from ml.inference.probe import ROUNDS, ROWS, measure_serving
from ml.stages.artifacts import find
from ml.stages.training import load_ranker
from ml.surfaces.files import load_surfaces


def main() -> None:
    """Print one line per surface."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=None)
    parser.add_argument("--partition", default=None)
    options = parser.parse_args()
    settings = Settings(**({"home": options.home} if options.home else {}))
    partition = date.fromisoformat(options.partition) if options.partition else settings.last_day
    assert partition is not None, "a live source has no last day; name a partition"
    print(f"{ROWS} rows a request, {ROUNDS} requests each in turn; {CONFIDENCE:.0%} interval of the ratio of medians")
    for name, surface in load_surfaces(settings).items():
        with tempfile.TemporaryDirectory() as scratch:
            folders, seen = {}, {}
            for role in ("control", "student"):
                folders[role] = Path(scratch) / role
                ranker, _ = load_ranker(find(settings, surface, role, partition))
                export_ranker(ranker, folders[role] / MODEL)
                (folders[role] / SCHEMA).write_text(json.dumps(feature_schema(surface)))
                seen[role] = inspect(folders[role] / MODEL)["operators"], (folders[role] / MODEL).stat().st_size
            row = measure_serving(folders["student"], folders["control"], timeout_s=300)
        (operators, size), (others, other_size) = seen["student"], seen["control"]
        same = "the same" if operators == others else f"other ({operators} and {others})"
        print(
            f"{name}: {sum(operators.values())} operators, {same}; {size - other_size:+d} bytes; student "
            f"{row['milliseconds']:.3f} ms, control / student {row['value']:.3f} [{row['lo']:.3f}, {row['hi']:.3f}]"
        )


if __name__ == "__main__":
    main()
