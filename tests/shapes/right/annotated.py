"""The Annotated Transformer's manner: clones, sublayer connections, masks as numbers, a generator."""

import copy
import math
from collections.abc import Callable

import torch
import torch.nn as nn
from jaxtyping import Bool, Float, Int
from torch import Tensor


def clones(module: nn.Module, n: int) -> nn.ModuleList:
    """n of the same kind."""
    return nn.ModuleList([copy.deepcopy(module) for _ in range(n)])


def subsequent_mask(size: int) -> Bool[Tensor, "1 {size} {size}"]:
    """True where one may look."""
    return torch.triu(torch.ones(1, size, size), diagonal=1) == 0


def attention(query, key, value, mask=None, dropout=None):
    """Unannotated, as learners write it."""
    d_k = query.size(-1)
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(d_k)
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -1e9)
    p_attn = scores.softmax(dim=-1)
    if dropout is not None:
        p_attn = dropout(p_attn)
    return torch.matmul(p_attn, value), p_attn


class MultiHeadedAttention(nn.Module):
    """Four projections in a list."""

    def __init__(self, h: int, d_model: int, dropout: float = 0.1) -> None:
        super().__init__()
        assert d_model % h == 0
        self.d_k = d_model // h
        self.h = h
        self.linears = clones(nn.Linear(d_model, d_model), 4)
        self.attn = None
        self.dropout = nn.Dropout(p=dropout)

    def forward(
        self,
        query: Float[Tensor, "batch query d_model"],
        key: Float[Tensor, "batch key d_model"],
        value: Float[Tensor, "batch key d_model"],
        mask: Bool[Tensor, "#batch #query key"] | None = None,
    ) -> Float[Tensor, "batch query d_model"]:
        """Project, attend, concatenate, project."""
        if mask is not None:
            mask = mask.unsqueeze(1)
        nbatches = query.size(0)
        query, key, value = [
            lin(x).view(nbatches, -1, self.h, self.d_k).transpose(1, 2)
            for lin, x in zip(self.linears, (query, key, value), strict=False)
        ]
        x, self.attn = attention(query, key, value, mask=mask, dropout=self.dropout)
        x = x.transpose(1, 2).contiguous().view(nbatches, -1, self.h * self.d_k)
        return self.linears[-1](x)


class PositionwiseFeedForward(nn.Module):
    """Two layers."""

    def __init__(self, d_model: int, d_ff: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.w_1 = nn.Linear(d_model, d_ff)
        self.w_2 = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch position d_model"]:
        """Up and down."""
        return self.w_2(self.dropout(self.w_1(x).relu()))


class PositionalEncoding(nn.Module):
    """Added, not learned."""

    pe: Tensor

    def __init__(self, d_model: int, dropout: float, max_len: int = 50) -> None:
        super().__init__()
        self.dropout = nn.Dropout(p=dropout)
        pe = torch.zeros(max_len, d_model)
        position = torch.arange(0, max_len).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2) * -(math.log(10000.0) / d_model))
        pe[:, 0::2] = torch.sin(position * div_term)
        pe[:, 1::2] = torch.cos(position * div_term)
        pe = pe.unsqueeze(0)
        self.register_buffer("pe", pe)

    def forward(self, x: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch position d_model"]:
        """Add."""
        x = x + self.pe[:, : x.size(1)].requires_grad_(False)
        return self.dropout(x)


class SublayerConnection(nn.Module):
    """A skip around anything."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch position size"], sublayer: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "batch position size"]:
        """Norm first."""
        return x + self.dropout(sublayer(self.norm(x)))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, size: int, self_attn: MultiHeadedAttention, feed_forward: PositionwiseFeedForward) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.feed_forward = feed_forward
        self.sublayer = clones(SublayerConnection(size, 0.0), 2)
        self.size = size

    def forward(
        self, x: Float[Tensor, "batch position size"], mask: Bool[Tensor, "#batch #query position"]
    ) -> Float[Tensor, "batch position size"]:
        """Two sublayers."""
        x = self.sublayer[0](x, lambda x: self.self_attn(x, x, x, mask))
        return self.sublayer[1](x, self.feed_forward)


class DecoderLayer(nn.Module):
    """Three sublayers."""

    def __init__(self, size: int, attn: MultiHeadedAttention, feed_forward: PositionwiseFeedForward) -> None:
        super().__init__()
        self.self_attn, self.src_attn = attn, copy.deepcopy(attn)
        self.feed_forward = feed_forward
        self.sublayer = clones(SublayerConnection(size, 0.0), 3)

    def forward(
        self,
        x: Float[Tensor, "batch target size"],
        memory: Float[Tensor, "batch source size"],
        src_mask: Bool[Tensor, "#batch 1 source"],
        tgt_mask: Bool[Tensor, "#batch target target"],
    ) -> Float[Tensor, "batch target size"]:
        """Self, cross, feed-forward."""
        m = memory
        x = self.sublayer[0](x, lambda x: self.self_attn(x, x, x, tgt_mask))
        x = self.sublayer[1](x, lambda x: self.src_attn(x, m, m, src_mask))
        return self.sublayer[2](x, self.feed_forward)


class Embeddings(nn.Module):
    """Times √d_model."""

    def __init__(self, d_model: int, vocab: int) -> None:
        super().__init__()
        self.lut = nn.Embedding(vocab, d_model)
        self.d_model = d_model

    def forward(self, x: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position d_model"]:
        """Look up."""
        return self.lut(x) * math.sqrt(self.d_model)


class Generator(nn.Module):
    """To log-probabilities."""

    def __init__(self, d_model: int, vocab: int) -> None:
        super().__init__()
        self.proj = nn.Linear(d_model, vocab)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Project."""
        return torch.log_softmax(self.proj(x), dim=-1)


def demo() -> None:
    """Run all."""
    src, tgt = torch.randint(0, 11, (2, 7)), torch.randint(0, 11, (2, 5))
    c = copy.deepcopy
    attn, ff, position = MultiHeadedAttention(3, 12), PositionwiseFeedForward(12, 20), PositionalEncoding(12, 0.1)
    source = nn.Sequential(Embeddings(12, 11), c(position))
    target = nn.Sequential(Embeddings(12, 11), c(position))
    src_mask = (src != 0).unsqueeze(-2)
    memory = EncoderLayer(12, c(attn), c(ff))(source(src), src_mask)
    tgt_mask = (tgt != 0).unsqueeze(-2) & subsequent_mask(tgt.size(-1))
    out = DecoderLayer(12, c(attn), c(ff))(target(tgt), memory, src_mask, tgt_mask)
    Generator(12, 11)(out)
