"""The processes of a run, seen from one of them: what a requirement of chapter `server` gets as `ranks`."""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from spec.kit import limit as limits
from spec.kit.limit import CALL_SECONDS, limit
from spec.kit.plug import Implementation
from spec.kit.server.devices import Devices
from spec.kit.spies import pair
from spec.kit.verdict import Endless

SECONDS = 120.0  # that a process waits for the others before it gives up

Step = Callable[..., float]


class Ranks:
    """This process among the others; all of them run the same requirement at the same time."""

    def __init__(self, devices: Devices) -> None:
        self.devices, self.rank, self.world = devices, dist.get_rank(), dist.get_world_size()
        self.device = devices.of(int(os.environ.get("LOCAL_RANK", "0")))
        self._alone: dict[int, bool] = {}

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in the order of their ranks, in each of them."""
        found: list[Any] = [None] * self.world
        if isinstance(value, Tensor):
            value = value.detach().cpu()
        dist.all_gather_object(found, value)
        return found

    def wrap(self, model: nn.Module, impl: Implementation) -> nn.Module:
        """The model as `distributed_step` gets it: in DDP, which averages the gradients over the processes.

        A step that reduces the gradients of a plain model itself is as right, and gets the plain one; so does a group
        of one, which has nothing to average.
        """
        model = model.to(self.device)
        if self.world == 1 or self._reduces_itself(impl.raw("distributed_step")):
            return model
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)

    def _reduces_itself(self, step: Step) -> bool:
        """Whether the gradients of a plain model are the same everywhere after a step on data that differ."""
        if id(step) not in self._alone:
            model = Line().to(self.device)
            tokens = torch.tensor([[0, 1, 2]], device=self.device) + self.rank
            # what is wrong with it, its requirement says
            with contextlib.suppress(Exception, Endless), limit(CALL_SECONDS, "distributed_step"):
                step(model, torch.optim.SGD(model.parameters(), lr=0.0), *pair(tokens))
            found = self.gather(model.table.grad)
            alike = all(isinstance(each, Tensor) and torch.equal(each, found[0]) for each in found)
            self._alone[id(step)] = alike
        return self._alone[id(step)]


class Line(nn.Module):
    """The least that has logits: a table of what follows what."""

    def __init__(self, vocab: int = 64) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(vocab, vocab))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        return self.table[inputs]


@contextlib.contextmanager
def joined(devices: Devices, seconds: float = SECONDS) -> Iterator[Ranks]:
    """Inside, this process is one of those that torchrun started; none waits longer than `seconds` for the others."""
    rank = int(os.environ["LOCAL_RANK"])
    torch.set_num_threads(1)
    limits.ASLEEP = 2 * seconds  # a call that waits for the others is ended by the group
    device = devices.of(rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        devices.backend,
        timeout=datetime.timedelta(seconds=seconds),
        device_id=device if devices.backend == "nccl" else None,
    )
    try:
        yield Ranks(devices)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def group_of_one() -> Iterator[Ranks]:
    """A process group that this process is alone in: enough for what needs a group and no others."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield Ranks(Devices("cpu", 1))
    finally:
        dist.destroy_process_group()
