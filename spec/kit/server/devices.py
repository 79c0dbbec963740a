"""Which devices a run is for: `--devices=auto|cuda:N|cpu:N`."""

import re
from dataclasses import dataclass

import torch


class NoSuchDevices(ValueError):
    """The word is none of the three forms; the message says which there are."""


@dataclass(frozen=True)
class Devices:
    """So many processes, each with a device of this kind."""

    kind: str
    count: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.count}"

    @property
    def shared(self) -> bool:
        """Whether several processes take turns on one GPU, which NCCL does not do: gloo connects them then."""
        return self.kind == "cuda" and self.count > torch.cuda.device_count()

    @property
    def backend(self) -> str:
        """What connects the processes."""
        return "nccl" if self.kind == "cuda" and not self.shared else "gloo"

    def of(self, rank: int) -> torch.device:
        """The device of a process on this machine."""
        return torch.device("cuda", rank % torch.cuda.device_count()) if self.kind == "cuda" else torch.device("cpu")

    def missing(self, many: bool) -> str:
        """What a requirement of one device, or of many, lacks here; empty where nothing is missing."""
        found = torch.cuda.device_count()  # asks the driver without starting CUDA: a forked child may still do so
        if self.kind == "cuda" and not found:
            return "no CUDA device is here; --devices=cpu:2 rehearses on two processes of the CPU"
        if many and self.count < 2:
            return f"needs two CUDA devices and found {found}; --devices=cuda:2 lets two processes share one"
        return ""


def parse(word: str) -> Devices:
    """`auto` is all CUDA devices. Raises NoSuchDevices, whose message lists the forms."""
    if word == "auto":
        return Devices("cuda", torch.cuda.device_count())
    if not re.fullmatch(r"(cuda|cpu):[1-9]\d?", word):
        raise NoSuchDevices(
            f"--devices={word}: auto (all CUDA devices), cuda:N (N processes, which share where there are fewer GPUs) "
            "or cpu:N (N processes on the CPU, a rehearsal)."
        )
    kind, _, count = word.partition(":")
    return Devices(kind, int(count))
