"""Runs pytest as a learner does, in a fork of this process, which has torch imported already."""

import io
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from spec.kit.catalogue import ROOT

# The processors that this process may use; not every system tells.
WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Run:
    """What a learner sees, and the exit status."""

    status: int
    screen: str


def learner(*arguments: str | Path, folder: Path = ROOT, **environment: str) -> Run:
    """`pytest ARGUMENTS` in the folder, as under a pipe."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            status = 70
            try:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8", write_through=True)
                sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), encoding="utf-8", write_through=True)
                os.chdir(folder)
                os.environ.pop("PYTEST_CURRENT_TEST", None)
                os.environ.update(environment)
                words = [str(argument) for argument in arguments]
                status = int(pytest.main(["-p", "no:cacheprovider", *words]))
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return Run(status, output.read().decode())
