"""Training throughput: the reference beside torch's own encoder and a minimal GPT, in turns, in one run.

`python -m tests.benchmarks.throughput` in nanoGPT's CPU configuration (4 layers, 4 heads, width 128, context 64, batch
12, 65 tokens), on the CPU and on a GPU where there is one, eager and compiled, in float32 and under bfloat16. A
ratio of wall times asks for a quiet machine; nothing here passes or fails.
"""

import argparse
import platform
import statistics
import time
import warnings

import torch
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from reference.language_model import DecoderLM
from tests.benchmarks.speed import BATCH, CONTEXT, D_MODEL, HEADS, LAYERS, VOCAB, TorchLM


class MinimalBlock(nn.Module):
    """A block in plain torch: one matrix for queries, keys and values, and torch's fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(D_MODEL), nn.LayerNorm(D_MODEL)
        self.qkv, self.output = nn.Linear(D_MODEL, 3 * D_MODEL), nn.Linear(D_MODEL, D_MODEL)
        self.up, self.down = nn.Linear(D_MODEL, 4 * D_MODEL), nn.Linear(4 * D_MODEL, D_MODEL)

    def forward(self, x: Tensor) -> Tensor:
        """Pre-norm."""
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(heads.transpose(1, 2).reshape(batch, length, D_MODEL))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class MinimalLM(nn.Module):
    """The smallest GPT that an engineer would write."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, D_MODEL), nn.Embedding(CONTEXT, D_MODEL)
        self.blocks = nn.Sequential(*(MinimalBlock() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(D_MODEL)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)


def models() -> dict[str, nn.Module]:
    """The three, of one size."""
    torch.manual_seed(0)
    ours = DecoderLM(vocab=VOCAB, max_length=CONTEXT, d_model=D_MODEL, layers=LAYERS, heads=HEADS)
    return {"reference": ours, "nn.TransformerEncoder": TorchLM(), "minimal GPT": MinimalLM()}


class Trained:
    """A model that takes training steps in rounds."""

    def __init__(self, model: nn.Module, device: str, compiled: bool, half: bool) -> None:
        model = model.to(device)
        self.optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
        self.model = torch.compile(model) if compiled else model
        self.tokens = torch.randint(VOCAB, (BATCH, CONTEXT + 1), device=device)
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=half)
        self.device = device

    def round(self, steps: int) -> float:
        """Tokens per second."""
        start = time.perf_counter()
        for _ in range(steps):
            with self.autocast:
                logits = self.model(self.tokens[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1), self.tokens[:, 1:].flatten())
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            self.optimizer.step()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return steps * BATCH * CONTEXT / (time.perf_counter() - start)


def measured(device: str, compiled: bool, half: bool, rounds: int, progress: Progress) -> dict[str, list[float]]:
    """Tokens per second of each model in each round; they take turns."""
    torch.compiler.reset()
    trained = {name: Trained(model, device, compiled, half) for name, model in models().items()}
    speeds: dict[str, list[float]] = {name: [] for name in trained}
    words = f"{device}, {'compiled' if compiled else 'eager'}, {'bfloat16' if half else 'float32'}"
    for number in progress.track(range(rounds + 2), description=words):
        for name, each in trained.items():
            speed = each.round(20 if device == "cpu" else 100)
            if number > 1:
                speeds[name].append(speed)
    return speeds


def main() -> None:
    """Prints the table."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--rounds", type=int, default=15)
    asked.add_argument("--threads", type=int, default=1)
    asked.add_argument("--eager", action="store_true", help="leave out what is compiled: minutes on a CPU")
    given = asked.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    show, names = Console(highlight=False, width=110), list(models())
    table = Table("device", "", "", *names, "ref : encoder", "ref : minimal", box=box.SIMPLE)
    with Progress(console=show) as progress:
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            for compiled in (False,) if given.eager else (False, True):
                for half in (False, True):
                    speeds = measured(device, compiled, half, given.rounds, progress)
                    medians = [statistics.median(speeds[name]) for name in names]
                    ratios = [
                        statistics.median(a / b for a, b in zip(speeds[names[0]], speeds[name], strict=True))
                        for name in names[1:]
                    ]
                    words = ("compiled" if compiled else "eager", "bfloat16" if half else "float32")
                    cells = [f"{each:,.0f}" for each in medians] + [f"{each:.2f}" for each in ratios]
                    table.add_row(device, *words, *cells)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    show.print(
        f"tokens per second, medians of {given.rounds} rounds; torch {torch.__version__}, {given.threads} threads"
    )
    show.print(f"{platform.machine()}, {platform.system()}{gpu}")
    show.print(table)


if __name__ == "__main__":
    main()
