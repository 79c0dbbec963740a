"""What a run trains on: the reversal task, or Shakespeare; each says what its sequences are and how it is judged."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spec.kit import corpus as works
from spec.kit import draw
from spec.kit import shakespeare as experiment
from spec.kit.spies import pair

HALF, VOCAB = 6, 10  # of the reversal task
WORDS = 4096  # of Shakespeare's vocabulary


@dataclass
class Task:
    """Sequences to learn from, others to be judged by."""

    vocab: int
    inputs: Tensor
    targets: Tensor
    held_out: list[tuple[Tensor, Tensor]]
    lines: dict[str, float] = field(default_factory=dict)  # losses to be compared with
    vocabulary: Any = None
    prompt: Tensor | None = None

    def to(self, device: torch.device) -> "Task":
        """The same on a device: small enough to be there as a whole."""
        self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)
        self.held_out = [(inputs.to(device), targets.to(device)) for inputs, targets in self.held_out]
        self.prompt = None if self.prompt is None else self.prompt.to(device)
        return self


def reversal(impl: Any) -> Task:
    """A random half, then the same backwards: only the second half can be predicted."""
    seen = impl.reversal_sequences(4096, HALF, VOCAB, generator=draw.generator("reversal"))
    unseen = impl.reversal_sequences(512, HALF, VOCAB, generator=draw.generator("reversal", "held out"))
    held_out = [pair(unseen)]
    # half of what is left is unknown for ever, the other half can be known
    at_best = math.log(VOCAB) * (HALF - 1) / (2 * HALF - 1)
    return Task(VOCAB, *pair(seen), held_out, {"the best possible": at_best})


@torch.no_grad()
def reversal_result(model: nn.Module, task: Task) -> tuple[float, float]:
    """The share of second halves that are right in every place, and the loss on the first half above ln(vocab)."""
    model.eval()
    inputs, targets = task.held_out[0]
    logits = model(inputs).float()
    right = (logits.argmax(-1) == targets)[:, HALF - 1 :].all(-1).double().mean().item()
    first = F.cross_entropy(logits[:, : HALF - 1].flatten(0, 1), targets[:, : HALF - 1].flatten()).item()
    return right, first - math.log(VOCAB)


def shakespeare(impl: Any, path: str | None, context: int) -> Task:
    """The complete works by words, cut without overlap; the vocabulary knows nothing of the last tenth."""
    vocabulary, seen, unseen = experiment.numbered(impl, works.text(path), WORDS)
    return Task(
        len(vocabulary), *experiment.training_part(impl, seen, context),
        experiment.validation_part(impl, unseen, context), {"ln(vocab)": math.log(len(vocabulary))},
        vocabulary, unseen[:16],
    )  # fmt: skip
