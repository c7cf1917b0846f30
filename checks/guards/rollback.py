"""Guard: the present champion can be restored."""

import tempfile
from pathlib import Path
from typing import TypedDict

from checks.guard import Found, Guard, Subject
from ml.evaluation.outcome import Outcome
from ml.export.files import MODEL
from ml.releases.release import Release
from ml.releases.verdicts import Check


class Answer(TypedDict):
    """What a restored model answered."""

    outputs: int
    finite: bool


def judge(subject: Subject) -> Found:
    """Judge whether the champion's files are whole and its model answers."""
    champion = subject.champion()
    if champion is None:
        return [], "there is no champion to return to"
    answer = measure(champion.release)
    check = Check(
        name="champion_restores",
        outcome=Outcome.PASS if answer["finite"] and answer["outputs"] else Outcome.FAIL,
        value=float(answer["outputs"]),
        threshold="finite answers",
        detail=f"{champion.release.id}: files verified, model loaded and answered",
    )
    return [check], ""


def measure(release: Release) -> Answer:
    """Answer one row of zeros with a release's model; return how many ``outputs`` it gave and if all are ``finite``."""
    import numpy as np

    from ml.export.onnx import session_of

    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / MODEL
        copy.write_bytes(release.model.read_bytes())
        session = session_of(copy)
    shapes = {i.name: [1, *i.shape[1:]] for i in session.get_inputs()}
    kinds = {i.name: np.int64 if "int64" in i.type else np.float32 for i in session.get_inputs()}
    answers = session.run(None, {name: np.zeros(shape, kinds[name]) for name, shape in shapes.items()})
    return {"outputs": len(answers), "finite": all(bool(np.isfinite(np.asarray(a)).all()) for a in answers)}


GUARD = Guard(
    number=9,
    name="rollback",
    means="The present champion can be restored.",
    to_do="the champion's files are damaged or gone: restore `artifacts/` from the backup before anything is promoted.",
    judge=judge,
    silent="first",
)
