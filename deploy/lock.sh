#!/usr/bin/env bash
# Resolve pyproject.toml in fresh environments and write the exact versions: requirements.lock (runtime) and
# requirements-dev.lock (what the tests add). Usage: deploy/lock.sh [python3.11]
set -euo pipefail
cd "$(dirname "$0")/.."
python="${1:-python3.11}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

# A local build tag (torch's "+cpu") names a machine's wheel, not a version.
frozen() { "$1/bin/python" -m pip freeze --exclude crossfade | sed -E 's/\+[a-z0-9.]+$//' | LC_ALL=C sort -f; }

# Everything is resolved together first, so that the tests' tools and the runtime agree on what they share.
"$python" -m venv "$scratch/all"
"$scratch/all/bin/python" -m pip install --quiet ".[dev]"
frozen "$scratch/all" > "$scratch/all.txt"
"$python" -m venv "$scratch/runtime"
"$scratch/runtime/bin/python" -m pip install --quiet --constraint "$scratch/all.txt" .
frozen "$scratch/runtime" > "$scratch/runtime.txt"

{ echo "# Exact versions of the runtime; written by make lock."; cat "$scratch/runtime.txt"; } > requirements.lock
{ echo "# Exact versions of what the tests add; written by make lock."; grep -Fxv -f "$scratch/runtime.txt" "$scratch/all.txt"; } > requirements-dev.lock
wc -l requirements.lock requirements-dev.lock
