"""A long run on all devices: `torchrun --nproc-per-node=8 -m spec.kit.server.train --impl=student --folder=runs/first`.

The implementation's model, schedule, groups, `shard` and `distributed_step`; PyTorch's DDP or FSDP2 around the model,
its distributed checkpoints, its launcher. A run that is started again on its folder goes on where it was.
"""

import argparse
import json
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from spec.kit import shakespeare as experiment
from spec.kit.plug import Implementation
from spec.kit.server import checkpoints, devices, folder, measure, tasks
from spec.kit.server.devices import Devices
from spec.kit.server.ranks import Ranks, joined

SAMPLED = 60  # tokens


@dataclass
class RunSettings:
    """What a run is; written to its folder, and read from there when it is resumed."""

    impl: str
    task: str = "reversal"
    steps: int = 300
    batch: int = 32  # sequences a device
    d_model: int = 64
    layers: int = 2
    heads: int = 4
    context: int = 64  # of Shakespeare; the reversal's is what it is
    dropout: float = 0.0
    peak: float = 3e-3
    warmup: int = 20
    floor: float = 1e-4
    weight_decay: float = 0.1
    max_norm: float = 1.0
    evaluate_every: int = 50
    save_every: int = 50
    until: float = -math.inf  # stops at the first evaluation with a validation loss as low as this
    precision: str = "float32"  # or bfloat16, by autocast
    sharded: bool = False  # parameters spread over the devices (fully_shard), for models that outgrow one
    seed: int = 0
    corpus: str | None = None
    wandb: bool = False


class Run:
    """One process's part of a run."""

    def __init__(self, settings: RunSettings, path: Path, ranks: Ranks, kill: str = "") -> None:
        self.settings, self.path, self.ranks, self.kill = settings, path, ranks, kill
        self.impl = Implementation(settings.impl)
        self.impl.log.stop()
        self.task = self._task().to(ranks.device)
        torch.manual_seed(settings.seed)
        self.plain = self._model()
        self.parameters = sum(parameter.numel() for parameter in self.plain.parameters())
        self.model = self._wrapped()
        groups = self.impl.parameter_groups(self.plain, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.peak, fused=not settings.sharded)
        self.place = {"step": 0, "epoch": 0, "position": 0, "world": ranks.world}
        torch.manual_seed(settings.seed + 1 + ranks.rank)  # every rank drops by its own numbers
        self._resume()

    def _task(self) -> tasks.Task:
        if self.settings.task == "reversal":
            return tasks.reversal(self.impl)
        return tasks.shakespeare(self.impl, self.settings.corpus, self.settings.context)

    def _model(self) -> nn.Module:
        settings, length = self.settings, self.task.inputs.shape[1]
        made: nn.Module = self.impl.DecoderLM(
            vocab=self.task.vocab, max_length=length, d_model=settings.d_model, layers=settings.layers,
            heads=settings.heads, dropout=settings.dropout,
        ).to(self.ranks.device)  # fmt: skip
        return made

    def _wrapped(self) -> nn.Module:
        if self.settings.precision == "bfloat16":
            autocast = torch.autocast(self.ranks.device.type, torch.bfloat16)
            self.plain.forward = autocast(self.plain.forward)
        if self.settings.sharded:
            for block in getattr(self.plain, "blocks", []):
                fully_shard(block)
            fully_shard(self.plain)
            return self.plain
        return self.ranks.wrap(self.plain, self.impl)

    def _resume(self) -> None:
        found = checkpoints.complete(self.path / "checkpoints")
        if not found:
            return
        self.place = checkpoints.restore(found[-1], self.plain, self.optimizer, self.ranks.rank)
        if self.place["world"] != self.ranks.world:  # who had read what is not known: begin the next epoch
            self.place |= {"epoch": self.place["epoch"] + 1, "position": 0, "world": self.ranks.world}

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's batches from where the run stands; one that has read its share takes part without targets."""
        settings, inputs, targets = self.settings, self.task.inputs, self.task.targets
        while True:
            share = self.impl.shard(
                count=len(inputs), rank=self.ranks.rank, world=self.ranks.world, epoch=self.place["epoch"],
                seed=settings.seed,
            ).to(inputs.device)  # fmt: skip
            largest = -(-len(inputs) // self.ranks.world)
            for position in range(self.place["position"], -(-largest // settings.batch)):
                rows = share[position * settings.batch : (position + 1) * settings.batch]
                self.place["position"] = position + 1
                yield (inputs[rows], targets[rows]) if len(rows) else (inputs[:1], torch.full_like(targets[:1], -100))
            self.place |= {"epoch": self.place["epoch"] + 1, "position": 0}

    def train(self) -> dict[str, Any]:
        """Runs to the end; what came out of it is also written to result.json."""
        settings, begun, read = self.settings, time.monotonic(), 0
        first = self.ranks.rank == 0
        journal = folder.Journal(self.path, self.place["step"], settings.wandb, settings) if first else None
        shown = _Shown(settings, self.place["step"], first)
        stream, validation = self.batches(), math.nan
        window, since = 0, time.monotonic()
        with shown:
            while self.place["step"] < settings.steps:
                step = self.place["step"] + 1
                self._die(step)
                self.plain.train()
                rate = self.impl.warmup_cosine(step, settings.peak, settings.warmup, settings.steps, settings.floor)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                inputs, targets = next(stream)
                loss = self.impl.distributed_step(self.model, self.optimizer, inputs, targets, settings.max_norm)
                self.place["step"] = step
                window, read = window + inputs.numel() * self.ranks.world, read + inputs.numel() * self.ranks.world
                last, evaluated = step == settings.steps, None
                speed = window / (time.monotonic() - since)
                if step % settings.evaluate_every == 0 or last:
                    evaluated = validation = self.impl.evaluate(self.plain, self.task.held_out)
                    self._sample(step)
                if journal:
                    row = {"step": step, "train_loss": loss, "validation_loss": evaluated, "rate": rate}
                    journal.add(**row, tokens_per_second=speed, seconds=time.monotonic() - begun)
                shown.step(step, loss, validation, speed, evaluated is not None)
                last |= evaluated is not None and self._enough(evaluated)
                if step % settings.save_every == 0 or last:
                    self._save(step)
                if evaluated is not None:
                    window, since = 0, time.monotonic()
                if last:
                    break
        if journal:
            journal.close()
        return self._end(validation, read / (time.monotonic() - begun))

    def _enough(self, validation: float) -> bool:
        """All ranks decide alike, by what the first one measured."""
        return bool(self.ranks.gather(validation)[0] <= self.settings.until)

    def _die(self, step: int) -> None:
        """For the trial of a killed run: by SIGKILL, as the system does when memory is out."""
        if self.kill == f"{self.ranks.rank}:{step}" and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            os.kill(os.getpid(), signal.SIGKILL)

    def _save(self, step: int) -> None:
        state = checkpoints.state_of(self.plain, self.optimizer, self.place, self.ranks.rank)
        checkpoints.save(self.path / "checkpoints", step, state)
        if self.ranks.rank == 0:
            folder.plot(self.path, self.task.lines)

    def _sample(self, step: int) -> None:
        """Some words that the model writes, by this rank alone or, where it is spread, by all."""
        if self.task.prompt is None or (self.ranks.rank and not self.settings.sharded):
            return
        ids = experiment.written(self.plain, self.task.prompt, self.settings.context, SAMPLED)
        if self.ranks.rank == 0:
            with (self.path / "samples.txt").open("a") as file:
                file.write(f"step {step}\n{''.join(self.task.vocabulary.decode(ids.cpu()))}\n\n")

    def _end(self, validation: float, speed: float) -> dict[str, Any]:
        settings, device = self.settings, self.ranks.device
        operations = measure.operations_per_token(
            self.parameters, settings.layers, settings.d_model, self.task.inputs.shape[1]
        )
        cuda = device.type == "cuda"
        result: dict[str, Any] = {
            "step": self.place["step"],
            "validation_loss": validation,
            "tokens_per_second": speed,
            "parameters": self.parameters,
            "peak_memory": max(self.ranks.gather(torch.cuda.max_memory_allocated(device) if cuda else 0)),
            "utilisation": measure.utilisation(speed, operations, self.ranks.world, torch.cuda.get_device_name(device))
            if cuda
            else None,
        }
        if settings.task == "reversal":
            result["accuracy"], result["first_half"] = tasks.reversal_result(self.plain, self.task)
        if self.ranks.rank == 0:
            (self.path / "result.json").write_text(json.dumps(result, indent=2) + "\n")
            folder.plot(self.path, self.task.lines)
        return result


class _Shown:
    """Progress on the first process: a bar on a terminal, elsewhere a line an evaluation."""

    def __init__(self, settings: RunSettings, done: int, first: bool) -> None:
        self.console, self.first = Console(file=sys.stdout, highlight=False, soft_wrap=True), first
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"), console=self.console,
            disable=not (first and self.console.is_terminal),
        )  # fmt: skip
        self.task = self.bar.add_task(settings.task, total=settings.steps, completed=done, state="")

    def __enter__(self) -> None:
        self.bar.start()

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, step: int, loss: float, validation: float, speed: float, evaluated: bool) -> None:
        """Where the run is."""
        if not self.first:
            return
        seen = "" if math.isnan(validation) else f", validation {validation:.3f}"
        state = f"loss {loss:.3f}{seen}, {speed:,.0f} tokens/s"
        self.bar.update(self.task, completed=step, state=state)
        if evaluated and not self.console.is_terminal:
            self.console.print(f"  step {step:6}  {state}")


def settings_of(words: list[str]) -> tuple[RunSettings, Path, Devices, str]:
    """Reads the command line; `--resume` takes what the run was from its folder."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--devices", default="auto", help="auto, cuda:N or cpu:N; N as many as torchrun starts")
    where = asked.add_mutually_exclusive_group(required=True)
    where.add_argument("--folder", type=Path, help="where the run is kept; one that is there goes on")
    where.add_argument("--resume", type=Path, metavar="RUN", help="the folder of a run to go on with, as it was set")
    asked.add_argument("--kill", default="", help=argparse.SUPPRESS)
    for field in fields(RunSettings):
        name = f"--{field.name.replace('_', '-')}"
        if field.type is bool or field.type == "bool":
            asked.add_argument(name, action="store_true", default=None)
        else:
            kind = {"int": int, "float": float}.get(getattr(field.type, "__name__", ""), str)
            asked.add_argument(name, type=kind, default=None)
    given = vars(asked.parse_args(words))
    path: Path = given.pop("resume") or given["folder"]
    del given["folder"]
    kill, word = given.pop("kill"), given.pop("devices")
    kept = path / "settings.json"
    before = json.loads(kept.read_text())["settings"] if kept.exists() else {}
    chosen = before | {name: value for name, value in given.items() if value is not None}
    if "impl" not in chosen:
        asked.error(f"--impl says what to train; {path} holds no run that would")
    return RunSettings(**chosen), path, devices.parse(word), kill


def main(words: list[str]) -> None:
    """One process of the run."""
    warnings.simplefilter("ignore")
    settings, path, where, kill = settings_of(words)
    if "LOCAL_RANK" not in os.environ:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}
        os.environ.setdefault("MASTER_PORT", "0")
    with joined(Devices(where.kind, int(os.environ["WORLD_SIZE"]))) as ranks:
        if ranks.rank == 0 and not (path / "settings.json").exists():
            folder.describe(path, settings, str(ranks.devices))
        ranks.gather(0)
        try:
            Run(settings, path, ranks, kill).train()
        except (checkpoints.DamagedCheckpoint, checkpoints.CannotSave) as problem:
            if ranks.rank == 0:
                print(problem, file=sys.stderr)
            sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
