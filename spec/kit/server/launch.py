"""Starts processes by torchrun, and reads what became of the requirements that they ran."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spec.kit import catalogue
from spec.kit.catalogue import ROOT
from spec.kit.plug import Implementation
from spec.kit.server.devices import Devices
from spec.kit.server.ranks import SECONDS
from spec.kit.story import UNMET, Story, edit_place

STARTING = 60.0  # seconds that a machine may take to start the processes, however busy it is
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    # A restart finds the store of the killed processes' agent otherwise, and hangs or fails in most runs.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


def torchrun(
    devices: Devices, module: str, *words: str, restarts: int = 0, directory: Path, log: Path | None = None
) -> subprocess.Popen[bytes]:
    """`torchrun -m module …`, a process a device, as a session of its own; into `log`, or onto the terminal."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices.count}"]
    command += [f"--max-restarts={restarts}", "--monitor-interval=0.2", "-m", module, *words]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": path}
    out = log.open("ab") if log else None
    try:
        return subprocess.Popen(
            command, cwd=directory, env=environment, stdout=out, stderr=out, start_new_session=True
        )  # fmt: skip
    finally:
        if out:
            out.close()


def end(running: subprocess.Popen[bytes]) -> None:
    """Ends torchrun and all that it started."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(1)  # it may be about to end by itself
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(running.pid, number)
            running.wait(5)


@dataclass(frozen=True)
class Request:
    """Where requirements run, and how."""

    devices: Devices
    directory: Path
    seed: int = 0
    shapes: bool = False
    name: bool = True
    seconds: float = SECONDS


Pair = tuple[str, str]  # an implementation's place and a requirement's id


def run(request: Request, pairs: list[Pair]) -> Iterator[tuple[Pair, Story]]:
    """What became of each, as it comes.

    What ends the processes, or makes them wait forever, is that requirement's failure; new ones go on with the rest.
    """
    left = list(pairs)
    while left:
        told = yield from _until_it_breaks(request, left)
        if told is not None:
            yield left.pop(0), told


def _until_it_breaks(request: Request, left: list[Pair]) -> Generator[tuple[Pair, Story], None, Story | None]:
    """Takes from `left` what is done; returns the story of the one that broke the processes, if one did."""
    with tempfile.TemporaryDirectory(prefix="attest-") as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(left))
        words = [f"--devices={request.devices}", f"--base={request.directory}", f"--seed={request.seed}"]
        words += [f"--seconds={request.seconds}", *(["--shapes"] if request.shapes else [])]
        words += [*(["--name"] if request.name else []), name]
        running = torchrun(
            request.devices, "spec.kit.server.worker", *words, directory=request.directory, log=folder / "log"
        )  # fmt: skip
        try:
            size, since, ended = -1, time.monotonic(), False
            while left and not ended and time.monotonic() - since < 1.5 * request.seconds + STARTING:
                time.sleep(0.05)
                ended = running.poll() is not None
                for line in _lines(folder / "rank-0.jsonl"):
                    pair = (line["impl"], line["id"])
                    if line["event"] == "end" and pair in left:
                        left.remove(pair)
                        yield pair, Story(**line["story"])
                now = sum(file.stat().st_size for file in folder.iterdir())
                if now != size:
                    size, since = now, time.monotonic()
            return _broken(left[0], request, folder, ended) if left else None
        finally:
            end(running)


def _lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may still be written."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]]


def _broken(pair: Pair, request: Request, folder: Path, ended: bool) -> Story:
    """What the processes leave behind that ended, or hung, during a requirement."""
    place, id = pair
    chapter, _, name = id.partition(".")
    own = [line for file in sorted(folder.glob("rank-*.jsonl")) for line in _lines(file)]
    met = [Story(**line["story"]) for line in own if (line["impl"], line["id"], line["event"]) == (place, id, "own")]
    if failed := [each for each in met if each.state == UNMET]:
        # those who waited for the one that failed say so too; they come last
        return min(failed, key=lambda each: "imed out" in each.why or "onnection closed" in each.why)
    requirement = catalogue.requirements(chapter)[name]
    told = Story(chapter, name, requirement.robust, UNMET)
    told.edit = edit_place(requirement, Implementation(place, request.directory))
    if ended:
        told.why = f"The processes ended in the middle.{_tail(folder / 'log')}"
    else:
        told.why = "The processes wait for each other forever: does every rank make the same collective calls?"
    return told


def _tail(log: Path) -> str:
    """The last words that name an error."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    errors = [line for line in lines if "Error" in line and "ChildFailedError" not in line]
    return f" The last error: {errors[-1].strip()[:300]}" if errors else ""
