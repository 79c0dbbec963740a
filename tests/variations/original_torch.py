"""The Transformer from torch's own layers, whose dropout also acts on weights and hidden numbers.

Searches keep sentences in Python lists: the start is not returned, and rows are filled with the end.
"""

# mypy: disable-error-code="no-any-return, no-untyped-call, operator"

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVEL = "core"


def hidden(mask: Tensor | None, batch: int, heads: int) -> Tensor | None:
    """torch's attention wants to know what is hidden, once for each sequence and head."""
    if mask is None:
        return None
    if mask.ndim == 2:
        return ~mask
    mask = mask.unsqueeze(1) if mask.ndim == 3 else mask
    return ~mask.expand(batch, heads, -1, -1).flatten(0, 1)


def full(mask: Tensor | None, queries: int) -> Tensor | None:
    """A mask whose query axis is 1 is repeated."""
    return None if mask is None else mask.expand(*mask.shape[:-2], queries, mask.shape[-1])


class EncoderBlock(nn.Module):
    """A layer of torch."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "post") -> None:
        super().__init__()
        self.heads = heads
        self.layer = nn.TransformerEncoderLayer(
            d_model, heads, d_ff, dropout, batch_first=True, norm_first=norm == "pre"
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Masks turned over."""
        return self.layer(x, src_mask=hidden(full(mask, x.shape[1]), len(x), self.heads))


class CrossDecoderBlock(nn.Module):
    """A decoder layer of torch."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "post") -> None:
        super().__init__()
        self.heads = heads
        self.layer = nn.TransformerDecoderLayer(
            d_model, heads, d_ff, dropout, batch_first=True, norm_first=norm == "pre"
        )

    def forward(
        self, x: Tensor, memory: Tensor, mask: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        """Masks turned over."""
        length = x.shape[1]
        return self.layer(
            x,
            memory,
            tgt_mask=hidden(full(mask, length), len(x), self.heads),
            memory_mask=hidden(full(memory_mask, length), len(x), self.heads),
        )


class Transformer(nn.Module):
    """torch's stacks between an embedding and its transpose."""

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
        self.core = nn.Transformer(d_model, heads, layers, layers, d_ff, dropout, batch_first=True)
        self.core.encoder.norm = self.core.decoder.norm = None
        self.core.encoder.enable_nested_tensor = self.core.encoder.use_nested_tensor = False
        self.source_table = nn.Embedding(source_vocab, d_model)
        self.target_table = self.source_table if share else nn.Embedding(target_vocab, d_model)
        self.unembedding = self.target_table.weight if share else nn.Parameter(torch.empty(target_vocab, d_model))
        for weight in (self.source_table.weight, self.target_table.weight, self.unembedding):
            nn.init.normal_(weight, std=d_model**-0.5)
        self.scale, self.padding, self.drop = math.sqrt(d_model), pad, nn.Dropout(dropout)

    def embed(self, table: nn.Embedding, ids: Tensor) -> Tensor:
        """Scaled, placed and dropped."""
        x = table(ids) * self.scale
        d_model = x.shape[-1]
        rate = torch.exp(torch.arange(0, d_model, 2, device=x.device) * (-math.log(10000.0) / d_model))
        angle = torch.arange(ids.shape[1], device=x.device)[:, None] * rate
        places = torch.zeros(ids.shape[1], d_model, device=x.device)
        places[:, 0::2], places[:, 1::2] = angle.sin(), angle.cos()
        return self.drop(x + places.to(x.dtype))

    def encode(self, source: Tensor) -> Tensor:
        """The encoder with torch's padding mask."""
        return self.core.encoder(self.embed(self.source_table, source), src_key_padding_mask=source == self.padding)

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """The decoder with torch's masks; the target's padding needs none."""
        length = target.shape[1]
        future = torch.ones(length, length, dtype=torch.bool, device=target.device).triu(1)
        x = self.core.decoder(
            self.embed(self.target_table, target),
            memory,
            tgt_mask=future,
            memory_key_padding_mask=source == self.padding,
        )
        return F.linear(x, self.unembedding)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Both."""
        return self.decode(target, self.encode(source), source)


def rectangle(rows: list[list[int]], end: int) -> Tensor:
    """Filled with the end."""
    longest = max(map(len, rows))
    return torch.tensor([row + [end] * (longest - len(row)) for row in rows])


@torch.no_grad()
def greedy_search(model: nn.Module, source: Tensor, start: int, end: int, max_length: int) -> Tensor:
    """Sentence by sentence, the whole model at every step."""
    rows = []
    for one in source.split(1):
        said: list[int] = []
        while len(said) < max_length and end not in said:
            said.append(int(model(one, torch.tensor([[start, *said]]))[0, -1].argmax()))
        rows.append(said)
    return rectangle(rows, end)


@torch.no_grad()
def beam_search(
    model: nn.Module, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """Sentence by sentence; what has ended leaves its place empty."""
    rows = []
    for one in source.split(1):
        memory = model.encode(one)
        alive: list[tuple[float, list[int]]] = [(0.0, [])]
        ended: list[tuple[float, list[int]]] = []
        while alive and len(alive[0][1]) < max_length:
            grown = []
            for score, said in alive:
                log_p = model.decode(torch.tensor([[start, *said]]), memory, one)[0, -1].log_softmax(-1).tolist()
                grown += [(score + p, [*said, token]) for token, p in enumerate(log_p)]
            grown.sort(key=lambda hope: -hope[0])
            best = grown[: beams - len(ended)]
            ended += [hope for hope in best if hope[1][-1] == end]
            alive = [hope for hope in best if hope[1][-1] != end]
        ranked = [(score / ((5 + len(said)) / 6) ** alpha, said) for score, said in ended or alive]
        rows.append(max(ranked, key=lambda hope: hope[0])[1])
    return rectangle(rows, end)
