"""`--watch`: runs again on every save, forked from a process that has torch imported already."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from watchfiles import PythonFilter, watch

from spec import CHAPTERS
from spec.kit import catalogue
from spec.kit.catalogue import ROOT
from spec.kit.plug import Implementation

OURS = (ROOT / "reference", ROOT / "spec" / "kit", ROOT / "spec" / "mistakes")  # imported once, before the first fork


def loop(config: pytest.Config) -> int:
    """Runs, waits for a save, runs again; until Ctrl-C."""
    console = Console(highlight=False)
    folders = _folders(config)
    arguments = [word for word in config.invocation_params.args if word != "--watch"]
    _warm()
    status = int(pytest.ExitCode.INTERRUPTED)
    try:
        status = _once(arguments)
        for changed in _saves(folders, console):
            console.clear()
            console.print(f"[dim]{', '.join(sorted(path.name for path in changed))} changed[/dim]")
            if hasattr(os, "fork") and any(path.is_relative_to(root) for path in changed for root in OURS):
                os.execv(sys.executable, [sys.executable, "-m", "pytest", *config.invocation_params.args])
            status = _once(arguments)
    except KeyboardInterrupt:
        pass
    return status


def _folders(config: pytest.Config) -> list[Path]:
    places = Implementation(config.option.impl or "reference", Path(config.invocation_params.dir)).places
    return [*dict.fromkeys(place.path for place in places), ROOT / "spec"]


def _saves(folders: list[Path], console: Console) -> Iterator[set[Path]]:
    console.print("[dim]watching; Ctrl-C ends[/dim]")
    for changes in watch(*folders, watch_filter=PythonFilter(), debounce=50, step=20, raise_interrupt=True):
        yield {Path(name) for _, name in changes}
        console.print("[dim]watching; Ctrl-C ends[/dim]")


def _warm() -> None:
    """Imports what every run needs, but nothing of the implementation's."""
    import hypothesis.internal.conjecture.engine
    import torch

    torch.set_num_threads(1)
    del hypothesis
    # torch loads a good part of itself at a first comparison that fails and at a first sum without numbers
    torch.testing.assert_close(torch.ones(1), torch.ones(1))
    torch.ones(2, 2, device="meta") @ torch.ones(2, 2, device="meta") / 2
    for chapter in CHAPTERS:
        catalogue.mistakes(chapter)
    gc.freeze()  # a run's garbage collections need not walk over torch


def _once(arguments: list[str]) -> int:
    """One run: in a fork of this process where there is one, else in a fresh process."""
    if not hasattr(os, "fork"):
        return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 3
        try:
            for name in [name for name in sys.modules if name == "conftest" or name.partition(".")[0] == "spec"]:
                if name.count(".") == 1 and name.partition(".")[2] in CHAPTERS:
                    del sys.modules[name]  # pytest imports the chapters itself, with its assertions rewritten
            status = int(pytest.main(arguments))
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
