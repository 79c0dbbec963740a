"""What a training step needs: memory, counted and by a closed form, and floating point operations."""

import gc
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spec.kit import draw
from spec.kit.server.ranks import group_of_one
from spec.kit.spies import pair

# Dense bfloat16 operations per second with float32 sums, from the makers' data sheets: the first name found is taken.
PEAKS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A6000": 154.8e12,
    "A5000": 111.1e12, "A10": 125e12, "4090": 165.2e12, "3090": 71e12,
}  # fmt: skip


@dataclass(frozen=True)
class Used:
    """Bytes at the peak of an early and of a late training step."""

    early: int
    late: int


@dataclass(frozen=True)
class Estimate:
    """Bytes by the closed form: `kept` lives as long as the run, `graph` from the forward to the backward pass."""

    kept: int
    graph: int

    def beside(self, used: Used) -> str:
        """In a line."""
        return (
            f"\n  memory of a training step: {mib(used.late)}, by the closed form {mib(self.kept + self.graph)} "
            f"({mib(self.kept)} for weights, gradients and AdamW, {mib(self.graph)} for the graph)"
        )


def mib(size: float) -> str:
    """Bytes, readable."""
    return f"{size / 2**20:.1f} MiB" if size < 2**30 else f"{size / 2**30:.2f} GiB"


def parameter_count(vocab: int, max_length: int, d_model: int, layers: int, **_: int) -> int:
    """Of a tied pre-norm decoder with d_ff = 4 d_model and learned positions: 12 d² + 13 d a layer."""
    return (vocab + max_length + 2) * d_model + layers * (12 * d_model**2 + 13 * d_model)


def closed_form(sizes: dict[str, int], batch: int) -> Estimate:
    """In float32, for sequences of max_length tokens.

    Weights, gradients and AdamW's two moments are four numbers a parameter. The graph keeps 16 d_model numbers a token
    and layer (what goes into both norms, their results, q, k, v, the attention's result, both sides of GELU) and two
    for each logit.
    Source: Korthikanti et al. 2022 (2205.05198), §4, counted for a fused attention.
    """
    tokens, width = batch * sizes["max_length"], sizes["d_model"]
    graph = tokens * (16 * width * sizes["layers"] + 3 * width + 2 * sizes["vocab"])
    return Estimate(4 * 4 * parameter_count(**sizes), 4 * graph)


def operations_per_token(parameters: int, layers: int, d_model: int, length: int) -> float:
    """Floating point operations of a forward and a backward pass: 6 a parameter, and the attention's 12 L d T.

    Source: Chowdhery et al. 2022 (PaLM), appendix B.
    """
    return 6.0 * parameters + 12.0 * layers * d_model * length


def utilisation(tokens_per_second: float, operations: float, count: int, name: str) -> float | None:
    """The model FLOP utilisation of `count` GPUs of this name; None for GPUs that PEAKS does not know."""
    peak = next((value for known, value in PEAKS.items() if known in name), None)
    return tokens_per_second * operations / (peak * count) if peak else None


def step_memory(impl: Any, device: torch.device, sizes: dict[str, int], batch: int) -> Used:
    """The peaks of the third and of the tenth step: CUDA's own count, on the CPU what the graph holds on to."""
    model = impl.DecoderLM(**sizes, dropout=0.0, positions="learned").to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    peaks: list[int] = []
    live: dict[int, int] = {}  # shared by all steps: what an earlier one has left behind counts
    sizes_of: dict[int, int] = {}
    with group_of_one() as ranks:
        wrapped = ranks.wrap(model, impl) if device.type == "cpu" else model
        for number in range(10):
            inputs, targets = pair(draw.tokens(sizes["vocab"], batch, sizes["max_length"] + 1, key=number).to(device))
            count = _Cuda(device) if device.type == "cuda" else _Graph(model, live, sizes_of)
            with count:
                impl.distributed_step(wrapped, optimizer, inputs, targets)
            peaks.append(count.peak)
    kept = 0 if device.type == "cuda" else 16 * sum(p.numel() for p in model.parameters())
    return Used(kept + peaks[2], kept + peaks[9])


class _Cuda:
    """The peak of what CUDA has given out."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.peak = device, 0

    def __enter__(self) -> None:
        gc.collect()
        torch.cuda.reset_peak_memory_stats(self.device)

    def __exit__(self, *_: object) -> None:
        self.peak = torch.cuda.max_memory_allocated(self.device)


class _Box:
    """A tensor that a graph holds on to; it counts for as long as the graph lives."""

    def __init__(self, tensor: Tensor, live: dict[int, int]) -> None:
        self.tensor, self.live, self.place = tensor, live, tensor.untyped_storage().data_ptr()
        live[self.place] = live.get(self.place, 0) + 1

    def __del__(self) -> None:
        self.live[self.place] -= 1


class _Graph:
    """The peak of the bytes that autograd keeps, the model's own parameters left out."""

    def __init__(self, model: nn.Module, live: dict[int, int], sizes: dict[int, int]) -> None:
        self.own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.live, self.sizes, self.peak = live, sizes, 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda box: box.tensor)

    def _pack(self, tensor: Tensor) -> _Box:
        box = _Box(tensor, self.live)
        self.sizes[box.place] = 0 if box.place in self.own else tensor.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(self.sizes[place] for place, held in self.live.items() if held))
        return box

    def __enter__(self) -> None:
        gc.collect()
        self.hooks.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)
