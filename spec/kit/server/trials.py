"""The longer trials of chapter `server`: what its requirements ask for in a line is done here."""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from spec.kit import kneser_ney
from spec.kit import shakespeare as experiment
from spec.kit.server import folder, measure, tasks
from spec.kit.server.devices import Devices
from spec.kit.server.launch import end, torchrun
from spec.kit.server.ranks import Ranks
from spec.kit.spies import Small, gradient

SECONDS = 240  # for one of the short runs; they take ten
STEPS, SAVE_EVERY, KILLED_AT = 30, 10, 17


@contextlib.contextmanager
def watched_files() -> Iterator[list[str]]:
    """What is opened for writing inside, and what is printed."""
    if not _Watch.installed:
        sys.addaudithook(_Watch.hear)  # cannot be taken away again, so it is there once
        _Watch.installed = True
    out = io.StringIO()
    written: list[str] = []
    _Watch.written = written
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            yield written
    finally:
        _Watch.written = None
        written += [f"print: {line}" for line in out.getvalue().splitlines()]


class _Watch:
    installed = False
    written: list[str] | None = None

    @classmethod
    def hear(cls, event: str, arguments: tuple[Any, ...]) -> None:
        """Called by Python for everything that it opens."""
        if event != "open" or cls.written is None:
            return
        path, mode, flags = arguments
        writes = any(letter in mode for letter in "wax+") if mode else bool(flags & 3)
        if writes and isinstance(path, str | Path) and "__pycache__" not in str(path) and "/dev/" not in str(path):
            cls.written.append(f"open: {path}")


class _FullSpy(torch.optim.SGD):
    """Remembers the gradients it was given, put together from all ranks."""

    given: Tensor

    def step(self, closure: Any = None) -> Any:
        """Remembers; steps by nothing."""
        parts = [p.grad.full_tensor() for p in self.param_groups[0]["params"]]
        self.given = torch.cat([part.flatten() for part in parts])
        return super().step(closure)


def sharded_step(impl: Any, ranks: Ranks, each: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The joined gradient of a model whose parameters are spread over the ranks, and what is due."""
    model = Small().to(ranks.device)
    fully_shard(model, mesh=init_device_mesh(ranks.device.type, (ranks.world,)))
    optimizer = _FullSpy(model.parameters(), lr=0.0)
    inputs, targets = (part.to(ranks.device) for part in each[ranks.rank])
    impl.distributed_step(model, optimizer, inputs, targets, max_norm=1e6)
    whole = [torch.cat([pair[number] for pair in each]) for number in (0, 1)]
    return optimizer.given.cpu(), gradient(Small(), *whole)


def forward_without_waiting(model: nn.Module, ids: Tensor) -> Tensor:
    """The logits, by a pass in which Python may not wait for the GPU; the meta device has nothing to wait for."""
    if ids.device.type != "cuda":
        logits: Tensor = model(ids)
        return logits
    model(ids)  # a first pass loads libraries, and that waits
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        waited: Tensor = model(ids)
        return waited
    finally:
        torch.cuda.set_sync_debug_mode(before)


def unwatched(impl: Any, sizes: dict[str, int], positions: str) -> nn.Module:
    """The model as the implementation wrote it: a compiler must not meet the watch around it."""
    watched = impl.DecoderLM(**sizes, dropout=0.0, positions=positions)
    plain: nn.Module = impl.raw("DecoderLM")(**sizes, dropout=0.0, positions=positions)
    plain.load_state_dict(watched.state_dict())
    return plain


def captured(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The model as one graph; capturing it is what can fail, so nothing is generated from it."""
    torch.compiler.reset()
    return torch.compile(model, fullgraph=True, backend="eager")


def reversal(impl: Any, device: torch.device) -> float:
    """The share of second halves that are exact after training under bfloat16 autocast."""
    task = tasks.reversal(impl).to(device)
    torch.default_generator.manual_seed(0)
    model = impl.DecoderLM(
        vocab=task.vocab, max_length=task.inputs.shape[1], d_model=64, layers=2, heads=4, positions="learned"
    ).to(device)
    autocast = torch.autocast(device.type, torch.bfloat16)
    model.forward = autocast(model.forward)
    optimizer = torch.optim.AdamW(impl.parameter_groups(model, 0.01), lr=3e-3)
    for number in range(400):
        rows = torch.arange(64, device=device) + number % 64 * 64
        model.train()
        impl.train_step(model, optimizer, [(task.inputs[rows], task.targets[rows])], 1.0)
        if number % 50 == 49 and tasks.reversal_result(model, task)[0] == 1.0:
            return 1.0
    return tasks.reversal_result(model, task)[0]


class RunFailed(AssertionError):
    """A run ended with an error; the message has its last words."""


def ran(
    impl: Any,
    devices: Devices,
    path: Path,
    *words: str,
    restarts: int = 0,
    seconds: float = SECONDS,
    shown: bool = False,
) -> dict[str, Any]:
    """A run to its end, and its result. What it prints is in output.txt of its folder, or on the terminal."""
    _ = impl.distributed_step, impl.shard  # what is not written is said at once, and no run is started for it
    path.mkdir(parents=True, exist_ok=True)
    log = None if shown else path / "output.txt"
    words = (f"--impl={impl.name}", f"--devices={devices}", f"--folder={path}", *words)
    running = torchrun(
        devices, "spec.kit.server.train", *words, restarts=restarts, directory=Path.cwd(), log=log
    )  # fmt: skip
    try:
        status = running.wait(seconds)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"The run did not end within {seconds:g} seconds. Do the ranks wait for each other?") from None
    finally:
        end(running)
    if status:
        said = log.read_text(errors="replace").splitlines() if log else []
        errors = [line for line in said if "Error" in line and "ChildFailedError" not in line]
        raise RunFailed(f"The run failed: {errors[-1].partition(']: ')[2] if errors else 'its words are above'}")
    result: dict[str, Any] = json.loads((path / "result.json").read_text())
    return result


SHORT = (f"--steps={STEPS}", "--evaluate-every=10", f"--save-every={SAVE_EVERY}", "--dropout=0.1", "--d-model=32")


def killed_and_undisturbed(impl: Any, devices: Devices, path: Path) -> tuple[Tensor, Tensor]:
    """The losses of all steps and evaluations of two runs; in the second one a worker was killed and came back."""
    ran(impl, devices, path / "undisturbed", *SHORT)
    ran(impl, devices, path / "killed", *SHORT, f"--kill={devices.count - 1}:{KILLED_AT}", restarts=2)
    curves = [
        folder.losses(path / name) + folder.losses(path / name, "validation_loss") for name in ("undisturbed", "killed")
    ]
    return torch.tensor(curves[0], dtype=torch.float64), torch.tensor(curves[1], dtype=torch.float64)


def resumed_on_another_number(impl: Any, devices: Devices, path: Path) -> tuple[bool, bool]:
    """Whether a run of many goes on in one process, and one of one in many, each with a loss that it had reached."""
    one, found = Devices(devices.kind, 1), []
    for name, first, second in (("many-one", devices, one), ("one-many", one, devices)):
        ran(impl, first, path / name, *SHORT)
        before = folder.losses(path / name, "validation_loss")
        ran(impl, second, path / name, *SHORT[1:], f"--steps={STEPS + 10}")
        after = folder.losses(path / name, "validation_loss")
        found.append(after[: len(before)] == before and len(after) > len(before) and after[-1] < before[0])
    return found[0], found[1]


def reversal_on_all(impl: Any, devices: Devices, path: Path) -> tuple[float, float]:
    """The share of exact second halves, and the loss on the first half above ln(vocab)."""
    words = ("--steps=200", "--evaluate-every=50", "--save-every=200", "--batch=32")
    result = ran(impl, devices, path / "reversal", *words, seconds=2 * SECONDS, shown=True)
    return result["accuracy"], result["first_half"]


@dataclass(frozen=True)
class Reached:
    """Validation losses: one process's after all its steps, that of all devices, a Kneser-Ney bigram model's.

    And the bytes of the fullest device; 0 on a CPU.
    """

    alone: float
    reached: float
    bigram: float
    memory: int


def shakespeare_on_all(impl: Any, devices: Devices, text: str, config: pytest.Config) -> Reached:
    """One process learns Shakespeare, then all devices learn until they are as good; both runs are kept."""
    runs, resumed = Path(config.option.runs), config.option.resume
    base = Path(resumed) if resumed else folder.new(runs, impl.name, "shakespeare")
    if devices.kind == "cuda":
        words = ["--d-model=384", "--layers=6", "--heads=6", "--context=256", "--batch=32", "--dropout=0.1"]
        words += ["--peak=1e-3", "--warmup=100", "--steps=2000", "--precision=bfloat16"]
    else:
        words = ["--d-model=128", "--heads=4", "--batch=8", "--warmup=200", "--steps=1000"]
    words += ["--task=shakespeare", "--evaluate-every=100", "--save-every=500"]
    words += [f"--corpus={Path(config.option.corpus).resolve()}"] if config.option.corpus else []
    show, hour = Console(file=sys.stdout, highlight=False, soft_wrap=True), 6 * 3600
    show.print(f"\nShakespeare by one process, then by {devices.count}; kept in {base}")
    alone = ran(impl, Devices(devices.kind, 1), base / "one", *words, restarts=2, seconds=hour, shown=True)
    until = f"--until={alone['validation_loss']}"
    every = ran(impl, devices, base / "all", *words, until, restarts=2, seconds=hour, shown=True)
    _report(show, devices, alone, every)
    show.print((base / "all" / "samples.txt").read_text().rpartition("step ")[2], markup=False)
    vocabulary, seen, unseen = experiment.numbered(impl, text, tasks.WORDS)
    bigram = kneser_ney.bigram(seen, unseen, len(vocabulary))
    return Reached(alone["validation_loss"], every["validation_loss"], bigram, every["peak_memory"])


def _report(show: Console, devices: Devices, alone: dict[str, Any], every: dict[str, Any]) -> None:
    table = Table("", "one process", str(devices))
    for key, label in (
        ("step", "steps"), ("validation_loss", "validation loss"), ("tokens_per_second", "tokens per second"),
        ("peak_memory", "peak memory"), ("utilisation", "model FLOP utilisation"),
    ):  # fmt: skip
        table.add_row(label, *(_spoken(key, result[key]) for result in (alone, every)))
    show.print(table)
    efficiency = every["tokens_per_second"] / alone["tokens_per_second"] / devices.count
    show.print(f"scaling efficiency with evaluation and saving: {efficiency:.2f}")


def _spoken(key: str, value: float | None) -> str:
    if not value:
        return "not known" if key == "utilisation" else "not measured on a CPU" if key == "peak_memory" else str(value)
    if key == "peak_memory":
        return measure.mib(value)
    return f"{value:.0%}" if key == "utilisation" else f"{value:.3f}" if key == "validation_loss" else f"{value:,.0f}"


def scaling(impl: Any, devices: Devices, path: Path) -> float:
    """Tokens per second of all devices over N times those of one, in rounds that take turns in one run."""
    _ = impl.distributed_step, impl.train_step
    path.mkdir(parents=True, exist_ok=True)
    words = (f"--impl={impl.name}", f"--devices={devices}", f"--result={path / 'scaling.json'}")
    running = torchrun(
        devices, "spec.kit.server.scaling", *words, directory=Path.cwd(), log=path / "output.txt"
    )  # fmt: skip
    try:
        status = running.wait(2 * SECONDS)
    finally:
        end(running)
    if status:
        raise RunFailed(f"The measurement failed; its words are in {path / 'output.txt'}")
    found: dict[str, float] = json.loads((path / "scaling.json").read_text())
    print(
        f"\n  {devices}: {found['all']:,.0f} tokens/s on {devices.count}, {found['one']:,.0f} on one: "
        f"scaling efficiency {found['efficiency']:.2f}"
    )
    return found["efficiency"]
