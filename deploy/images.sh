#!/usr/bin/env bash
# Images of this checkout. `deploy/images.sh build` makes both, with version and commit, and their bills of materials;
# `deploy/images.sh bills` makes these alone, from the images where docker has them, else from lock and base image;
# `deploy/images.sh digests` asks the registries for the digests of the base images, and writes them to deploy/images.env.
set -euo pipefail
cd "$(dirname "$0")/.."
names=deploy/images.env
version="$(sed -n '/^\[project\]/,/^\[/s/^version = "\(.*\)"$/\1/p' pyproject.toml)"
commit="$(git describe --always --abbrev=40 --dirty)"

build() {
  local target
  # shellcheck source=deploy/images.env
  . "$names"
  for target in code-location server; do
    docker build --file deploy/Dockerfile --target "$target" --tag "crossfade/$target:$version" \
      --build-arg PYTHON_IMAGE="$PYTHON_IMAGE" --build-arg VERSION="$version" --build-arg COMMIT="$commit" .
  done
  bills
}

bills() {
  local target image bill
  mkdir -p .bills
  for target in code-location server; do
    image="crossfade/$target:$version" bill=".bills/$target-$version.cdx.json"
    if [ "$(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.revision"}}' "$image" \
        2>/dev/null)" = "$commit" ]; then
      docker run --rm --network none --entrypoint python "$image" -m deploy.image_bill "$target" --here \
        --commit "$commit" > "$bill.part"
    else
      "${PYTHON:-.venv/bin/python}" -m deploy.image_bill "$target" --commit "$commit" > "$bill.part"
    fi
    mv "$bill.part" "$bill"
    echo "$bill"
  done
}

digests() {
  local line name image digest written
  written="# Base images of deploy/Dockerfile and deploy/compose.yaml, by digest: written by \`make digests\`."
  while read -r line; do
    name="${line%%=*}" image="${line#*=}" image="${image%@*}"
    digest="$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$image")"
    [[ "$digest" =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "no digest of $image: docker said \"$digest\"" >&2; exit 1; }
    written+=$'\n'"$name=$image@$digest"
  done < <(grep -v '^#' "$names")
  echo "$written" > "$names"
  cat "$names"
}

case "${1:-}" in
  build | bills | digests) "$1" ;;
  *) echo "usage: deploy/images.sh build|bills|digests" >&2; exit 2 ;;
esac
