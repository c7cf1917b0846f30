"""Serves the variants of an experiment in a process of their own, from the experiment store, not the champions."""

import multiprocessing as mp
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from deploy.serving.run import serving
from ml.foundation.settings import Settings
from ml.lab.live.variants import Variant, VariantStore

_START_S = 60.0
_POLL_S = 0.05


@contextmanager
def serving_variants(settings: Settings, root: Path, variants: Collection[Variant]) -> Iterator[str]:
    """Serve variants of an experiment store in a process of their own, and yield the base URL.

    Args:
        settings: Names the home whose published features are looked up.
        root: Folder of the experiment store.
        variants: What to serve.

    Raises:
        RuntimeError: The server did not start.
    """
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(settings, root, list(variants), theirs), name="crossfade-variants")
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START_S):
            raise RuntimeError(f"the server of {root} did not start within {_START_S:g} s")
        try:
            url = ours.recv()
        except EOFError as error:
            raise RuntimeError(f"the server of {root} ended before it started") from error
        yield url
    finally:
        ours.close()
        process.join(_START_S)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(settings: Settings, root: Path, variants: list[Variant], parent: Connection) -> None:
    """Serve until the other end of the pipe closes, by its owner's will or its death."""
    with serving(settings, store=VariantStore(root, variants), poll_s=_POLL_S) as url:
        parent.send(url)
        parent.poll(None)
