"""How fast it is: the suite against `import torch`, the reference's training step against torch's own encoder.

`python -m tests.benchmarks.speed` prints ratios of runs that alternate in one go. A ratio of wall times asks for a
quiet machine; nothing here passes or fails.
"""

import statistics
import subprocess
import sys
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from reference.language_model import DecoderLM
from spec.kit.catalogue import ROOT

LAYERS, HEADS, D_MODEL, CONTEXT, BATCH, VOCAB = 4, 4, 128, 64, 12, 65
ROUNDS, STEPS = 15, 20


class TorchLM(nn.Module):
    """torch's encoder as a decoder-only model: learned positions, pre-norm, GELU, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, D_MODEL), nn.Embedding(CONTEXT, D_MODEL)
        layer = nn.TransformerEncoderLayer(D_MODEL, HEADS, 4 * D_MODEL, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(D_MODEL), enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT))

    def forward(self, tokens: Tensor) -> Tensor:
        """The logits of each next token."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return F.linear(self.blocks(x, mask=self.mask, is_causal=True), self.tokens.weight)


def tokens_per_second(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor) -> float:
    """One round of training steps."""
    start = time.perf_counter()
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        logits = model(tokens[:, :-1])
        torch.autograd.backward(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))
        optimizer.step()
    return STEPS * BATCH * CONTEXT / (time.perf_counter() - start)


def training(threads: int) -> tuple[float, float, float]:
    """The median ratio of paired rounds, and both medians in tokens/s: the reference's and torch's."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours = DecoderLM(vocab=VOCAB, max_length=CONTEXT, d_model=D_MODEL, layers=LAYERS, heads=HEADS)
    models = [ours, TorchLM()]
    optimizers = [torch.optim.AdamW(model.parameters(), 1e-3, fused=True) for model in models]
    tokens = torch.randint(VOCAB, (BATCH, CONTEXT + 1))
    rounds = [
        [tokens_per_second(*pair, tokens) for pair in zip(models, optimizers, strict=True)] for _ in range(ROUNDS + 2)
    ][2:]
    ratio = statistics.median(ours / theirs for ours, theirs in rounds)
    return ratio, statistics.median(r[0] for r in rounds), statistics.median(r[1] for r in rounds)


def wall(*command: str) -> float:
    """Seconds that a command takes; it has to succeed."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", *command], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def suite(rounds: int = 3) -> dict[str, float]:
    """Wall time over that of `import torch`, the median of paired runs."""
    commands = {
        "pytest --impl=reference spec": ("-m", "pytest", "--impl=reference", "spec", "-q"),
        "pytest --impl=reference spec/attention.py": ("-m", "pytest", "--impl=reference", "spec/attention.py", "-q"),
    }
    wall("-c", "import torch")
    ratios: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        base = wall("-c", "import torch")
        for name, command in commands.items():
            ratios[name].append(wall(*command) / base)
    return {name: statistics.median(values) for name, values in ratios.items()}


def main() -> None:
    """Prints both tables."""
    show = Console()
    table = Table("run", "wall time over `import torch`")
    for name, ratio in suite().items():
        table.add_row(name, f"{ratio:.2f}")
    show.print(table)
    table = Table("training step", "reference / torch", "reference tokens/s", "nn.TransformerEncoder tokens/s")
    for threads in (1, 2):
        ratio, ours, theirs = training(threads)
        table.add_row(f"{threads} thread(s)", f"{ratio:.2f}", f"{ours:,.0f}", f"{theirs:,.0f}")
    show.print(table)


if __name__ == "__main__":
    main()
