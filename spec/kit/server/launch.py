"""Starts processes by torchrun, and reads what became of the requirements that they ran."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spec.kit import catalogue
from spec.kit.catalogue import ROOT
from spec.kit.plug import Implementation
from spec.kit.server.devices import Devices
from spec.kit.story import UNMET, Story, edit_place

SILENCE = 180.0  # seconds without a word after which the processes are taken to wait for each other forever
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
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(running.pid, number)
            running.wait(10)


@dataclass(frozen=True)
class Request:
    """What the processes are to run, and how."""

    devices: Devices
    directory: Path
    seed: int = 0
    shapes: bool = False
    name: bool = True


def run(request: Request, places: list[str], ids: list[str]) -> Iterator[tuple[str, str, Story]]:
    """(implementation, requirement, story) one after the other, as they come.

    What ends the processes, or makes them wait forever, is that requirement's failure; new ones go on with the rest.
    """
    for place in places:
        left = list(ids)
        while left:
            told = yield from _until_it_breaks(request, place, left)
            if told is not None:
                yield place, left[0], told
                left.pop(0)


def _until_it_breaks(request: Request, place: str, left: list[str]) -> Iterator[tuple[str, str, Story]]:
    """Takes from `left` what is done; returns the story of the requirement that broke the processes, if one did."""
    with tempfile.TemporaryDirectory(prefix="attest-") as folder:
        results, log = Path(folder), Path(folder) / "log"
        words = [f"--devices={request.devices}", f"--results={folder}", f"--base={request.directory}"]
        words += [f"--seed={request.seed}", f"--impl={place}", *(["--shapes"] if request.shapes else [])]
        words += [*(["--name"] if request.name else []), *left]
        running = torchrun(request.devices, "spec.kit.server.worker", *words, directory=request.directory, log=log)
        try:
            size, since = -1, time.monotonic()
            while left:
                ended = running.poll() is not None
                ends = [line for line in _lines(results / "rank-0.jsonl") if line["event"] == "end"]
                for line in ends:
                    if line["id"] in left:
                        left.remove(line["id"])
                        yield place, line["id"], Story(**line["story"])
                if not left or ended:
                    break
                now = sum(file.stat().st_size for file in results.iterdir())
                if now != size:
                    size, since = now, time.monotonic()
                if time.monotonic() - since > SILENCE:
                    break
                time.sleep(0.05)
            if not left:
                running.wait(30)
                return None
            return _broken(left[0], place, request, results, ended)
        finally:
            end(running)


def _lines(file: Path) -> list[dict[str, object]]:
    """The whole lines of a file that may still be written."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]]


def _broken(id: str, place: str, request: Request, results: Path, ended: bool) -> Story:
    """What the processes leave behind that ended, or hung, during a requirement."""
    chapter, _, name = id.partition(".")
    requirement = catalogue.requirements(chapter)[name]
    own = [line for file in sorted(results.glob("rank-*.jsonl")) for line in _lines(file)]
    met = [Story(**line["story"]) for line in own if line["id"] == id and line["event"] == "own"]  # type: ignore[arg-type]
    if failed := [each for each in met if each.state == UNMET]:
        # who waited for the one that failed says so too; the reason is the shortest wait's
        return min(failed, key=lambda each: "imed out" in each.why or "onnection closed" in each.why)
    impl = Implementation(place, request.directory)
    told = Story(chapter, name, requirement.robust, UNMET, edit=edit_place(requirement, impl))
    last = _tail(results / "log")
    if ended:
        told.why = f"The processes ended in the middle.{last}"
    else:
        told.why = "The processes wait for each other forever: does every rank make the same collective calls?"
    return told


def _tail(log: Path) -> str:
    """The last words that name an error."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    errors = [line for line in lines if "Error" in line and "ChildFailedError" not in line]
    return f" The last error: {errors[-1].strip()[:300]}" if errors else ""
