"""A Ray cluster of this machine."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.process import free_port
from tests.support.commands import ROOT

# Otherwise 127.0.0.1 becomes the machine's address. Ray reads it once, when the first test imports Ray.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node on loopback, which knows no other address; the tests add the second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_TMPDIR", "/tmp")  # paths of its sockets have to be short
        from ray.cluster_utils import Cluster

        port = free_port()
        head = NODE | {"include_dashboard": False, "ray_client_server_port": port}
        made: Any = Cluster(initialize_head=True, head_node_args=head)
        made.client_address = f"ray://127.0.0.1:{port}"
        yield made
        made.shutdown()


@pytest.fixture
def two_nodes(cluster: Any) -> Any:
    if not cluster.worker_nodes:
        cluster.add_node(**NODE)
    return cluster
