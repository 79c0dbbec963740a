"""A small model, an optimizer and batches that remember what an implementation does with them."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from spec.kit.draw import randn, tokens

Batch = tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]  # inputs, targets


class Small(nn.Module):
    """A model to be trained: it guesses a token from the one before, and remembers how it was called."""

    def __init__(self, vocab: int = 7, width: int = 5, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, vocab, bias=False)
        self.trained_on: list[Tensor] = []
        self.evaluated_on: list[Tensor] = []
        self.recorded: list[bool] = []  # whether a graph was kept in evaluation
        for name, parameter in self.named_parameters():
            parameter.data = randn(*parameter.shape, key=name)

    def forward(self, inputs: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
        """Logits."""
        (self.trained_on if self.training else self.evaluated_on).append(inputs)
        logits: Tensor = self.head(self.dropout(self.up(self.norm(self.tokens(inputs)))))
        if not self.training:
            self.recorded.append(logits.requires_grad)
        return logits


class Spy(torch.optim.SGD):
    """Plain gradient descent that remembers the gradients it was given."""

    def __init__(self, model: nn.Module, rate: float = 0.1) -> None:
        super().__init__(model.parameters(), lr=rate)
        self.given: list[Tensor] = []

    def step(self, closure: Any = None) -> Any:
        """Remembers, then steps."""
        gradients = [p.grad for p in self.param_groups[0]["params"] if p.grad is not None]
        self.given.append(torch.cat([gradient.flatten().clone() for gradient in gradients]))
        return super().step(closure)


def batch(*key: object, rows: int = 2, vocab: int = 7) -> Batch:
    """A small batch of random tokens."""
    return pair(tokens(vocab, rows, 4, key=key))


def pair(both: Int[Tensor, "batch more"]) -> Batch:
    """Inputs and targets, each in one piece, so that `targets.view(-1)` is right."""
    return both[:, :-1].contiguous(), both[:, 1:].contiguous()


def gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the mean loss of the targets that are not −100."""
    loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(model.parameters()))])
