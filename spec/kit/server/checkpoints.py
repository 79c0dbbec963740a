"""Checkpoints by torch.distributed.checkpoint: any number of processes saves, any other number loads.

A checkpoint is a folder that gets its name when it is complete: before, it is called `….unfinished`. A list of its
files with their hashes is inside, so that a damaged one is told from a whole one before anything of it is used.
"""

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

KEPT = 2  # complete checkpoints: the newest, and one in case it is damaged
LIST = "complete.json"


class DamagedCheckpoint(ValueError):
    """A checkpoint is not what was saved; the message says which one is whole."""


class CannotSave(OSError):
    """A checkpoint could not be written; the message says which one is still there."""


def complete(folder: Path) -> list[Path]:
    """The checkpoints that were finished, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".unfinished")


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Writes `state` as the newest checkpoint; all processes call it. Raises CannotSave and leaves the older ones."""
    final = folder / f"step-{step:08}"
    unfinished = final.with_suffix(".unfinished")
    problem = ""
    try:
        if _first():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        _wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a single process is told that it is single
            dcp_save(state, checkpoint_id=unfinished, no_dist=not dist.is_initialized())
    except (Exception, CheckpointException) as error:  # DCP's own is no Exception
        problem = f"{type(error).__name__}: {_innermost(error)}"
    problem = next(filter(None, _everyone(problem)), "")
    if not problem and _first():
        try:
            (unfinished / LIST).write_text(json.dumps(_hashes(unfinished)))
            shutil.rmtree(final, ignore_errors=True)
            unfinished.rename(final)
        except OSError as error:
            problem = f"{type(error).__name__}: {error}"
    problem = next(filter(None, _everyone(problem)), "")
    if problem:
        if _first():
            shutil.rmtree(unfinished, ignore_errors=True)
        left = complete(folder)
        still = f"the last good one is {left[-1]}" if left else "there is none yet"
        raise CannotSave(f"The checkpoint of step {step} could not be written ({problem}); {still}.")
    if _first():
        for old in complete(folder)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    _wait()


def load(path: Path, state: dict[str, Any]) -> None:
    """Reads a checkpoint into the tensors of `state`. Raises DamagedCheckpoint before anything is changed."""
    problem = next(filter(None, _everyone(_damage(path) if _first() else "")), "")
    if problem:
        raise DamagedCheckpoint(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_load(state, checkpoint_id=path, no_dist=not dist.is_initialized())


def names(path: Path) -> set[str]:
    """What is in a checkpoint."""
    return set(FileSystemReader(path).read_metadata().state_dict_metadata)


def _damage(path: Path) -> str:
    """What is wrong with a checkpoint, in a learner's words; empty where nothing is."""
    before = [other for other in complete(path.parent) if other < path]
    advice = f"Remove that folder to go on from {before[-1]}." if before else "There is none before it."
    try:
        due = json.loads((path / LIST).read_text())
    except (OSError, ValueError):
        return f"{path} has no list of its files: it is no complete checkpoint. {advice}"
    for name, (size, hashed) in due.items():
        file = path / name
        if not file.exists():
            return f"{path} is damaged: {name} is missing. {advice}"
        if file.stat().st_size != size:
            return f"{path} is damaged: {name} has {file.stat().st_size} bytes of {size}. {advice}"
        if _hash(file) != hashed:
            return f"{path} is damaged: {name} is not what was written. {advice}"
    return ""


def _hashes(folder: Path) -> dict[str, tuple[int, str]]:
    return {file.name: (file.stat().st_size, _hash(file)) for file in sorted(folder.iterdir())}


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _innermost(error: BaseException) -> str:
    """DCP wraps what happened on each process; the last line says it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()


def _everyone(value: str) -> list[str]:
    if not dist.is_initialized():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer, place: dict[str, int], rank: int) -> dict[str, Any]:
    """All that a run needs to go on: the random numbers are each process's own, all else is everybody's."""
    return {
        "model": model.state_dict(),
        "optimizer": {str(number): each for number, each in optimizer.state_dict()["state"].items()},
        "place": {name: torch.tensor(value) for name, value in place.items()},
        "random": {f"rank-{rank}": torch.get_rng_state()} | _cuda(rank),
    }


def _cuda(rank: int) -> dict[str, Tensor]:
    return {f"cuda-{rank}": torch.cuda.get_rng_state()} if torch.cuda.device_count() else {}


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> dict[str, int]:
    """Puts a run back to where it was saved, and returns its place; the number of processes may be another one."""
    _fill_moments(optimizer)
    due = ("step", "epoch", "position", "world")
    state = state_of(model, optimizer, dict.fromkeys(due, 0), rank)
    held = names(path) if not _damage(path) else set()
    state["random"] = {name: value for name, value in state["random"].items() if f"random.{name}" in held}
    load(path, state)
    model.load_state_dict(state["model"])
    groups = optimizer.state_dict()["param_groups"]
    moments = {int(number): each for number, each in state["optimizer"].items()}
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    if (own := state["random"].get(f"rank-{rank}")) is not None:
        torch.set_rng_state(own)
    if (own := state["random"].get(f"cuda-{rank}")) is not None:
        torch.cuda.set_rng_state(own)
    return {name: int(value) for name, value in state["place"].items()}


def _fill_moments(optimizer: torch.optim.Optimizer) -> None:
    """AdamW makes its moments at its first step; one without gradient and rate makes them and moves nothing."""
    if optimizer.state:
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = torch.zeros_like(group["lr"]) if isinstance(group["lr"], Tensor) else 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
