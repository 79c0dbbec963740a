"""The style of a lecture: a layer a gate, each over x and h side by side, and one layer over query and key together.

Hooks cut the canonical parameters into the layers' own, and the layers have one bias each where PyTorch has two.
"""

from typing import Any

import torch
from torch import Tensor, nn

LEVEL = "robust"
LAYERS = ("enter", "stay", "idea", "speak")  # in PyTorch's order of rows


class LSTMCell(nn.Module):
    """[x, h] into each of four layers."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.sizes = input_size, hidden_size
        self.enter, self.stay, self.idea, self.speak = (
            nn.Linear(input_size + hidden_size, hidden_size) for _ in range(4)
        )
        with torch.no_grad():
            self.stay.bias.fill_(1.0)  # remembers from the start (Jozefowicz et al. 2015)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """As on the blackboard."""
        h, c = state
        both = torch.cat((x, h), dim=1)
        i, f, g, o = self.enter(both), self.stay(both), self.idea(both), self.speak(both)
        kept, added = f.sigmoid() * c, i.sigmoid() * torch.tanh(g)
        new = kept + added
        return torch.tanh(new) * o.sigmoid(), new

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        names = [f"{prefix}{name}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        if all(name in state_dict for name in names):
            of_x, of_h, first, second = (state_dict.pop(name) for name in names)
            for name, x, h, one, two in zip(
                LAYERS, of_x.chunk(4), of_h.chunk(4), first.chunk(4), second.chunk(4), strict=True
            ):
                state_dict[f"{prefix}{name}.weight"] = torch.cat((x, h), dim=1)
                state_dict[f"{prefix}{name}.bias"] = one + two
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class BahdanauAttention(nn.Module):
    """[query, key] into one layer: the sum of two products is a product with two matrices side by side."""

    def __init__(self, d_query: int, d_key: int, d_attention: int) -> None:
        super().__init__()
        self.energy = nn.Linear(d_query + d_key, d_attention, bias=False)
        self.v = nn.Parameter(torch.empty(d_attention).normal_(std=d_attention**-0.5))

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The query is repeated beside every key; the softmax is written out over what is visible."""
        asked = query[:, None, :].expand(-1, keys.shape[1], -1)
        scores = torch.tanh(self.energy(torch.cat((asked, keys), dim=2))) @ self.v
        seen = torch.ones_like(scores) if mask is None else mask.to(scores.dtype)
        power = torch.exp(scores - scores.amax(1, keepdim=True).detach()) * seen  # scores are bounded by Σ|v|
        total = power.sum(1, keepdim=True)
        weights = power / torch.where(total > 0, total, torch.ones_like(total))
        return (weights[:, :, None] * keys).sum(1), weights

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        names = [f"{prefix}{name}.weight" for name in ("query", "key", "score")]
        if all(name in state_dict for name in names):
            w, u, v = (state_dict.pop(name) for name in names)
            state_dict[f"{prefix}energy.weight"], state_dict[f"{prefix}v"] = torch.cat((w, u), dim=1), v[0]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
