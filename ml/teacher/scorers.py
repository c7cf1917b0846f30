"""Where labelling scores: on threads of this process, or on the nodes of a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ml.foundation.settings import Settings
from ml.teacher.columns import InputColumns
from ml.teacher.scoring import Scorer, on_threads

if TYPE_CHECKING:
    from ml.teacher.answers import TeacherModel


@contextmanager
def scorer(settings: Settings, model: "TeacherModel", columns: InputColumns) -> Iterator[Scorer]:
    """Yield what scores: Ray's nodes where the settings name a cluster, otherwise threads.

    A teacher behind an endpoint is asked from here all the same: what it can bear is the endpoint's affair.

    Raises:
        ClusterError: The cluster cannot be used.
    """
    if settings.ray_address and model.contract.model:
        from ml.teacher.nodes import on_nodes

        with on_nodes(settings.ray_address, model.contract, columns, settings.teacher_providers) as found:
            yield found
    else:
        yield on_threads(model, columns, settings.threads)
