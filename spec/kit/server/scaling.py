"""How well a step scales: one device alone, then all, in turns; `torchrun -m spec.kit.server.scaling`."""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spec.kit.plug import Implementation
from spec.kit.server import devices
from spec.kit.server.ranks import Ranks, joined
from spec.kit.spies import pair

ROUNDS, STEPS = 8, 8
LARGE = {"vocab": 8192, "max_length": 512, "d_model": 768, "layers": 12, "heads": 12}  # as GPT-2 small
SMALL = {"vocab": 1024, "max_length": 64, "d_model": 128, "layers": 2, "heads": 4}


def main(words: list[str]) -> None:
    """One process of the measurement."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--impl")
    asked.add_argument("--devices", type=devices.parse)
    asked.add_argument("--result", type=Path)
    given = asked.parse_args(words)
    warnings.simplefilter("ignore")
    with joined(given.devices) as ranks:
        found = measured(Implementation(given.impl), ranks)
        if ranks.rank == 0:
            given.result.write_text(json.dumps(found))


def measured(impl: Any, ranks: Ranks) -> dict[str, float]:
    """Tokens per second of one and of all, and the median efficiency of the paired rounds."""
    impl.log.stop()
    cuda = ranks.device.type == "cuda"
    sizes, batch = (LARGE, 16) if cuda else (SMALL, 12)
    torch.manual_seed(0)
    models = [impl.DecoderLM(**sizes).to(ranks.device) for _ in range(2)]
    if cuda:
        for model in models:
            model.forward = torch.autocast("cuda", torch.bfloat16)(model.forward)
    wrapped = ranks.wrap(models[0], impl)
    optimizers = [torch.optim.AdamW(model.parameters(), 1e-4, fused=True) for model in models]
    both = torch.randint(sizes["vocab"], (batch, sizes["max_length"] + 1), device=ranks.device)
    inputs, targets = pair(both)

    def together() -> None:
        impl.distributed_step(wrapped, optimizers[0], inputs, targets, 1.0)

    def alone() -> None:
        if ranks.rank == 0:
            impl.train_step(models[1], optimizers[1], [(inputs, targets)], 1.0)

    tokens = inputs.numel() * STEPS
    rounds = [(_seconds(alone, ranks, inputs), _seconds(together, ranks, inputs)) for _ in range(ROUNDS + 1)][1:]
    one, every = (tokens / statistics.median(each) for each in zip(*rounds, strict=True))
    ratio = statistics.median(single / joint for single, joint in rounds)
    return {"one": one, "all": every * ranks.world, "efficiency": ratio}


def _seconds(work: Callable[[], None], ranks: Ranks, on: Tensor) -> float:
    """The slowest process's time for a round."""
    ranks.gather(0)
    start = time.perf_counter()
    for _ in range(STEPS):
        work()
    if on.is_cuda:
        torch.cuda.synchronize(on.device)
    return float(max(ranks.gather(time.perf_counter() - start)))


if __name__ == "__main__":
    main(sys.argv[1:])
