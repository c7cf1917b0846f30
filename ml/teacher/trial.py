"""Trying a teacher's file in a process of its own, which is given up when it takes too long.

A file can hold a loop that never ends, or unpack to more than there is: neither may stop or take down the process that
labels. One process serves all trials of its parent, since starting it costs more than most trials.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import psutil

from ml.foundation.settings import CPU, PROJECT_ROOT
from ml.teacher.contract import Contract, ContractError
from ml.teacher.refused import TeacherRefused

SECONDS = 45
"""Of CPU: a trial that takes more is given up. A file of more than a gigabyte has as much for each."""

_WAITS = 8
"""So many times as long by the clock, for a trial that sleeps or whose machine is busy with other work."""

_SPARE_BYTES = 16 << 30


def passed(contract: Contract, providers: Sequence[str] = (CPU,)) -> None:
    """Try a teacher's file, once for a process.

    Raises:
        TeacherRefused: It breaks its contract, gave no answer in time, or took its process down.
    """
    sizes = [contract.file(name).stat().st_size for name in contract.files]
    wanted = {"contract": contract.model_dump(mode="json"), "folder": str(contract.folder), "bytes": sum(sizes)}
    golden = contract.file(contract.golden).read_bytes() if contract.golden else b""
    _try(json.dumps(wanted | {"providers": list(providers)}), str(contract.model_path), contract.contract_hash, golden)


@lru_cache(maxsize=64)
def _try(wanted: str, where: str, contract_hash: str, golden: bytes) -> None:
    """Have the trial run; its arguments are all that its end depends on."""
    refused = _PROCESS.ask(wanted, SECONDS * (1 + json.loads(wanted)["bytes"] // (1 << 30)), where)
    if refused is not None:
        raise TeacherRefused(refused)


class _Process:
    """The process that tries teachers: started with the first one, and again after one that it did not survive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[str] | None = None
        self._parent = 0

    def ask(self, wanted: str, seconds: float, where: str) -> str | None:
        """Return why a teacher is refused, or None."""
        with self._lock:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(wanted + "\n")
                process.stdin.flush()
                if not _answers(process, seconds):
                    self._give_up(process)
                    return (
                        f"{where}: did not answer within {seconds} seconds of CPU: a loop in it may never end, "
                        "or one of its operators takes too long"
                    )
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = ""
            if not answer:
                self._give_up(process)
                return f"{where}: took the process down that tried it (it ended with {process.returncode})"
            return json.loads(answer)["refused"]

    def _started(self) -> subprocess.Popen[str]:
        mine = self._parent == os.getpid()  # a fork of this process has the pipes, but not the child
        if self._running is None or not mine or self._running.poll() is not None:
            command = [sys.executable, "-m", __name__]
            pipe = subprocess.PIPE
            self._running = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=PROJECT_ROOT)
            self._parent = os.getpid()
        return self._running

    def _give_up(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        process.wait()
        self._running = None


def _answers(process: subprocess.Popen[str], seconds: float) -> bool:
    """Wait until the process has something to say; return whether it did so within its seconds of CPU."""
    said = process.stdout
    assert said is not None
    watched, ends = psutil.Process(process.pid), time.monotonic() + _WAITS * seconds
    spent = sum(watched.cpu_times()[:2])
    while time.monotonic() < ends:
        if select.select([said], [], [], min(1.0, seconds))[0]:
            return True
        with suppress(psutil.NoSuchProcess):  # its pipe is closed then, which the next look sees
            if sum(watched.cpu_times()[:2]) - spent > seconds:
                break
    return bool(select.select([said], [], [], 0)[0])


_PROCESS = _Process()


def main() -> None:
    """Try the teachers that standard input describes, one a line, and answer with why each is refused."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    for line in sys.stdin:
        print(json.dumps({"refused": _refused(json.loads(line))}), file=answers, flush=True)


def _refused(wanted: dict[str, object]) -> str | None:
    from ml.teacher.onnx_teacher import OnnxTeacher
    from ml.teacher.probe import probe

    contract = Contract.model_validate(wanted["contract"]).beside(Path(str(wanted["folder"])))
    providers = [str(name) for name in wanted["providers"]] if isinstance(wanted["providers"], list) else [CPU]
    limit = _SPARE_BYTES + 6 * int(str(wanted["bytes"]))
    if providers == [CPU]:
        _bound_memory(limit)
    try:
        probe(OnnxTeacher(contract, providers))
    except (TeacherRefused, ContractError) as error:
        return str(error)
    except MemoryError:
        return f"{contract.model_path}: needs more than {limit >> 30} GB on probe rows"
    return None


def _bound_memory(limit: int) -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main()
