"""Chapter `original`: encoder, decoder, and search, without einops."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Attention(nn.Module):
    """Scaled dot products over heads, by SDPA."""

    def __init__(self, d_model: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.d_k, self.dropout = heads, d_model // heads, dropout
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.output = nn.Linear(d_model, d_model)

    def split(self, x: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch head position d_k"]:
        """To heads."""
        return x.unflatten(-1, (self.heads, self.d_k)).transpose(1, 2)

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        context: Float[Tensor, "batch key d_model"],
        mask: Bool[Tensor, "batch #head #query key"] | None = None,
    ) -> Float[Tensor, "batch query d_model"]:
        """Attend."""
        q, k, v = self.split(self.query(x)), self.split(self.key(context)), self.split(self.value(context))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0)
        return self.output(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    """Two layers."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__(nn.Linear(d_model, d_ff), nn.ReLU(), nn.Linear(d_ff, d_model))


class EncoderBlock(nn.Module):
    """Post-norm."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = Attention(d_model, heads, dropout)
        self.feed_forward = nn.Sequential(nn.Linear(d_model, d_ff), nn.ReLU(), nn.Linear(d_ff, d_model))
        self.norm_1, self.norm_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch position d_model"], mask: Bool[Tensor, "batch 1 1 position"] | None = None
    ) -> Float[Tensor, "batch position d_model"]:
        """Two sublayers."""
        x = self.norm_1(x + self.dropout(self.attention(x, x, mask)))
        return self.norm_2(x + self.dropout(self.feed_forward(x)))


class CrossDecoderBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = Attention(d_model, heads, dropout)
        self.cross_attention = Attention(d_model, heads, dropout)
        self.feed_forward = FeedForward(d_model, d_ff)
        self.norms = nn.ModuleList([nn.LayerNorm(d_model) for _ in range(3)])

    def forward(
        self,
        x: Float[Tensor, "batch target d_model"],
        memory: Float[Tensor, "batch source d_model"],
        mask: Bool[Tensor, "batch 1 target target"] | None = None,
        memory_mask: Bool[Tensor, "batch 1 1 source"] | None = None,
    ) -> Float[Tensor, "batch target d_model"]:
        """Three sublayers."""
        x = self.norms[0](x + self.attention(x, x, mask))
        x = self.norms[1](x + self.cross_attention(x, memory, memory_mask))
        return self.norms[2](x + self.feed_forward(x))


class Transformer(nn.Module):
    """Encoder and decoder with shared embeddings."""

    def __init__(
        self,
        source_vocab: int,
        target_vocab: int,
        d_model: int = 512,
        layers: int = 6,
        heads: int = 8,
        d_ff: int = 2048,
    ) -> None:
        super().__init__()
        self.d_model = d_model
        self.pad = 0
        self.source_tokens = nn.Embedding(source_vocab, d_model)
        self.target_tokens = nn.Embedding(target_vocab, d_model)
        self.encoder = nn.ModuleList(EncoderBlock(d_model, heads, d_ff) for _ in range(layers))
        self.decoder = nn.ModuleList(CrossDecoderBlock(d_model, heads, d_ff) for _ in range(layers))
        self.head = nn.Linear(d_model, target_vocab, bias=False)

    def embed(
        self, table: nn.Embedding, tokens: Int[Tensor, "batch position"]
    ) -> Float[Tensor, "batch position d_model"]:
        """Times √d_model, plus positions."""
        length = tokens.shape[-1]
        position = torch.arange(length).float()
        frequency = 10000.0 ** (-torch.arange(0, self.d_model, 2).float() / self.d_model)
        angle = position[:, None] * frequency
        table_of_positions = torch.stack([angle.sin(), angle.cos()], dim=-1).view(length, self.d_model)
        return table(tokens) * math.sqrt(self.d_model) + table_of_positions

    def encode(self, source: Int[Tensor, "batch source"]) -> Float[Tensor, "batch source d_model"]:
        """To memory."""
        x = self.embed(self.source_tokens, source)
        mask = (source != self.pad)[:, None, None, :]
        for block in self.encoder:
            x = block(x, mask)
        return x

    def decode(
        self,
        target: Int[Tensor, "batch target"],
        memory: Float[Tensor, "batch source d_model"],
        source: Int[Tensor, "batch source"],
    ) -> Float[Tensor, "batch target vocab"]:
        """To logits."""
        x = self.embed(self.target_tokens, target)
        size = target.size(1)
        causal = torch.ones(size, size, dtype=torch.bool).tril()
        mask = causal & (target != self.pad)[:, None, None, :]
        memory_mask = (source != self.pad)[:, None, None, :]
        for block in self.decoder:
            x = block(x, memory, mask, memory_mask)
        return self.head(x)

    def forward(
        self, source: Int[Tensor, "batch source"], target: Int[Tensor, "batch target"]
    ) -> Float[Tensor, "batch target vocab"]:
        """Both."""
        return self.decode(target, self.encode(source), source)


@torch.no_grad()
def greedy_search(
    model: Transformer, source: Int[Tensor, "batch source"], start: int, end: int, max_length: int
) -> Int[Tensor, "batch length"]:
    """The most likely token each time."""
    memory = model.encode(source)
    target = torch.full((source.size(0), 1), start)
    done = torch.zeros(source.size(0), dtype=torch.bool)
    while target.size(1) < max_length and not done.all():
        following = model.decode(target, memory, source)[:, -1].argmax(-1)
        following = torch.where(done, torch.full_like(following, end), following)
        done = done | (following == end)
        target = torch.cat([target, following.unsqueeze(1)], dim=1)
    return target


@torch.no_grad()
def beam_search(
    model: Transformer, source: Int[Tensor, "1 source"], start: int, end: int, max_length: int, beams: int = 4
) -> Int[Tensor, "1 length"]:
    """Keep the best few."""
    memory = model.encode(source).expand(beams, -1, -1)
    sources = source.expand(beams, -1)
    sequences = torch.full((beams, 1), start)
    scores = torch.zeros(beams)
    scores[1:] = float("-inf")
    for _ in range(max_length - 1):
        log_p = model.decode(sequences, memory, sources)[:, -1].log_softmax(-1)
        total = (scores[:, None] + log_p).flatten()
        scores, index = total.topk(beams)
        beam = torch.div(index, log_p.size(-1), rounding_mode="floor")
        token = index % log_p.size(-1)
        sequences = torch.cat([sequences[beam], token[:, None]], dim=1)
    return sequences[scores.argmax()][None]


def demo() -> None:
    """Run all."""
    source, target = torch.randint(1, 11, (2, 7)), torch.randint(1, 9, (2, 5))
    model = Transformer(11, 9, d_model=12, layers=2, heads=3, d_ff=20)
    model(source, target)
    greedy_search(model, source, 1, 2, 4)
    beam_search(model, source[:1], 1, 2, 4, beams=3)
