"""One table for everything, so share=False is not offered; −∞ masks by hand, einsum, a mask for the target's padding.

Beams are rows of one batch, sentence by sentence; what has ended is kept beside those that go on.
"""

# mypy: disable-error-code="no-any-return, operator, index, arg-type"

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVEL = "robust"
UNSUPPORTED = {"share=False"}
PARAMETERS = dict.fromkeys(("source.weight", "target.weight", "head.weight"), "table.weight")


class Attend(nn.Module):
    """Queries from one side, keys and values from the other."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"{heads} heads cannot share d_model={d_model}")
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        """A row with nothing visible gets zeros."""
        q = self.query(x).unflatten(-1, (self.heads, -1))
        k, v = (layer(y).unflatten(-1, (self.heads, -1)) for layer in (self.key, self.value))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
        if mask is not None:
            mask = mask[:, None] if mask.ndim == 3 else mask
            scores = scores.masked_fill(~mask, -math.inf).softmax(-1).masked_fill(~mask, 0.0)
        else:
            scores = scores.softmax(-1)
        return self.output(torch.einsum("bhqk,bkhd->bqhd", scores, v).flatten(-2))


class Network(nn.Module):
    """Up, ReLU, down."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Position by position."""
        return self.down(self.up(x).relu())


class EncoderBlock(nn.Module):
    """Two sublayers, written out."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "post") -> None:
        super().__init__()
        self.attention, self.feed_forward = Attend(d_model, heads), Network(d_model, d_ff)
        self.norm_1, self.norm_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.p, self.first = dropout, norm == "pre"

    def drop(self, x: Tensor) -> Tensor:
        """In training alone."""
        return F.dropout(x, self.p, self.training)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Either order."""
        if self.first:
            n = self.norm_1(x)
            x = x + self.drop(self.attention(n, n, mask))
            return x + self.drop(self.feed_forward(self.norm_2(x)))
        x = self.norm_1(x + self.drop(self.attention(x, x, mask)))
        return self.norm_2(x + self.drop(self.feed_forward(x)))


class CrossDecoderBlock(EncoderBlock):
    """A sublayer more."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "post") -> None:
        super().__init__(d_model, heads, d_ff, dropout, norm)
        self.cross_attention, self.norm_3 = Attend(d_model, heads), nn.LayerNorm(d_model)

    def forward(  # type: ignore[override]
        self, x: Tensor, memory: Tensor, mask: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        """Either order."""
        if self.first:
            n = self.norm_1(x)
            x = x + self.drop(self.attention(n, n, mask))
            x = x + self.drop(self.cross_attention(self.norm_2(x), memory, memory_mask))
            return x + self.drop(self.feed_forward(self.norm_3(x)))
        x = self.norm_1(x + self.drop(self.attention(x, x, mask)))
        x = self.norm_2(x + self.drop(self.cross_attention(x, memory, memory_mask)))
        return self.norm_3(x + self.drop(self.feed_forward(x)))


class Transformer(nn.Module):
    """Clones, drawn anew afterwards; the sinusoids are a buffer."""

    def __init__(
        self,
        source_vocab: int,
        target_vocab: int,
        d_model: int = 512,
        layers: int = 6,
        heads: int = 8,
        d_ff: int = 2048,
        dropout: float = 0.1,
        pad: int = 0,
        share: bool = True,
    ) -> None:
        super().__init__()
        if not share:
            raise ValueError("share=False is not offered")
        self.table = nn.Embedding(max(source_vocab, target_vocab), d_model)
        self.encoder = self.clones(EncoderBlock(d_model, heads, d_ff, dropout), layers)
        self.decoder = self.clones(CrossDecoderBlock(d_model, heads, d_ff, dropout), layers)
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)
        half = torch.arange(0, d_model, 2)
        angle = torch.outer(torch.arange(256), 10000.0 ** (-half / d_model))
        self.register_buffer("places", torch.stack([angle.sin(), angle.cos()], -1).flatten(1), persistent=False)
        self.drop, self.pad, self.vocab = nn.Dropout(dropout), pad, target_vocab

    @staticmethod
    def clones(block: nn.Module, number: int) -> nn.ModuleList:
        """Deep copies."""
        return nn.ModuleList(copy.deepcopy(block) for _ in range(number))

    def embed(self, ids: Tensor) -> Tensor:
        """Scaled, placed and dropped."""
        x = self.table(ids)
        return self.drop(x * x.shape[-1] ** 0.5 + self.places[: ids.shape[1]].to(x.dtype))

    def encode(self, source: Tensor) -> Tensor:
        """Padding hidden."""
        x = self.embed(source)
        for block in self.encoder:
            x = block(x, (source != self.pad)[:, None, :])
        return x

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """Future hidden; the target's padding stands behind its words anyway."""
        place = torch.arange(target.shape[1], device=target.device)
        x = self.embed(target)
        for block in self.decoder:
            x = block(x, memory, place[:, None] >= place, (source != self.pad)[:, None, :])
        return F.linear(x, self.table.weight[: self.vocab])

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Both."""
        return self.decode(target, self.encode(source), source)


def greedy_search(model: nn.Module, source: Tensor, start: int, end: int, max_length: int) -> Tensor:
    """A single beam."""
    return beam_search(model, source, start, end, max_length, 1, 0.0)


@torch.no_grad()
def beam_search(
    model: nn.Module, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """Sentence by sentence."""
    mode = model.training
    model.eval()
    found = [_one(model, row[None], start, end, max_length, beams, alpha) for row in source]
    model.train(mode)
    return nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=model.pad)


def _one(model: nn.Module, source: Tensor, start: int, end: int, longest: int, beams: int, alpha: float) -> Tensor:
    memory, alive, scores = model.encode(source), torch.tensor([[start]]), torch.zeros(1)
    ended: list[tuple[float, Tensor]] = []
    while len(alive) and alive.shape[1] < longest:
        log_p = model.decode(alive, memory.expand(len(alive), -1, -1), source.expand(len(alive), -1))[:, -1]
        total = (scores[:, None] + F.log_softmax(log_p, -1)).flatten()
        scores, place = total.topk(min(beams - len(ended), total.numel()))
        alive = torch.cat([alive[place // log_p.shape[-1]], (place % log_p.shape[-1])[:, None]], 1)
        stop = alive[:, -1] == end
        penalty = ((5 + alive.shape[1] - 1) / 6) ** alpha
        ended += list(zip((scores[stop] / penalty).tolist(), alive[stop], strict=True))
        alive, scores = alive[~stop], scores[~stop]
    return max(ended, key=lambda pair: pair[0])[1] if ended else alive[0]
