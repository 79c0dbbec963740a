"""The Transformer of 2017: an encoder that reads, a decoder that writes, and the search for the best sentence."""

import math
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .blocks import FeedForward, LayerNorm
from .generation import _evaluating
from .heads import MultiHeadAttention
from .masks import causal_mask, padding_mask
from .positions import sinusoidal_positions


class _Block(nn.Module):
    """What encoder and decoder blocks share: how a sublayer is normed, dropped and skipped around."""

    def __init__(self, dropout: float, norm: str) -> None:
        super().__init__()
        if norm not in ("pre", "post"):
            raise ValueError(f'norm={norm!r} is neither "pre" nor "post"')
        self.pre = norm == "pre"
        self.dropout = nn.Dropout(dropout)

    def _around(
        self, x: Float[Tensor, "batch position d_model"], norm: nn.Module, sublayer: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "batch position d_model"]:
        """What the sublayer says is dropped out before the skip is added; inside a sublayer nothing is dropped."""
        if self.pre:
            return x + self.dropout(sublayer(norm(x)))
        out: Tensor = norm(x + self.dropout(sublayer(x)))
        return out


class EncoderBlock(_Block):
    """Attention, then a feed-forward network with ReLU, each with a norm of its own and a skip around it.

    Parameters: attention (MultiHeadAttention), feed_forward (FeedForward), norm_1 and norm_2 (LayerNorm).
    Raises: ValueError where norm is neither "pre" nor "post", or heads do not divide d_model.
    Source: Vaswani et al. 2017, §3.1; dropout: §5.4.
    """

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "post") -> None:
        super().__init__(dropout, norm)
        self.attention = MultiHeadAttention(d_model, heads)
        self.feed_forward = FeedForward(d_model, d_ff, activation="relu")
        self.norm_1, self.norm_2 = LayerNorm(d_model), LayerNorm(d_model)

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """norm(x + dropout(sublayer(x))) for "post", x + dropout(sublayer(norm(x))) for "pre", twice.

        Shapes: mask as in MultiHeadAttention; without one every position sees all.
        """
        x = self._around(x, self.norm_1, lambda y: self.attention(y, mask=mask))
        return self._around(x, self.norm_2, self.feed_forward)


class CrossDecoderBlock(_Block):
    """Attention among the target, attention to the memory, then a feed-forward network with ReLU.

    Parameters: attention and cross_attention (MultiHeadAttention), feed_forward (FeedForward), norm_1, norm_2, norm_3
    (LayerNorm), in this order. The memory is read as it is: no norm of this block is applied to it.
    Raises: ValueError where norm is neither "pre" nor "post", or heads do not divide d_model.
    Source: Vaswani et al. 2017, §3.1 and §3.2.3; dropout: §5.4.
    """

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "post") -> None:
        super().__init__(dropout, norm)
        self.attention = MultiHeadAttention(d_model, heads)
        self.cross_attention = MultiHeadAttention(d_model, heads)
        self.feed_forward = FeedForward(d_model, d_ff, activation="relu")
        self.norm_1, self.norm_2, self.norm_3 = (LayerNorm(d_model) for _ in range(3))

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        memory: Float[Tensor, "batch key d_model"],
        mask: Bool[Tensor, "#position #target"]
        | Bool[Tensor, "#batch #position #target"]
        | Bool[Tensor, "#batch #head #position #target"]
        | None = None,
        memory_mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """Three sublayers, each as in EncoderBlock.

        Shapes: the memory has a length of its own; mask says what of the target a position sees, memory_mask what of
        the memory. Without a mask it is all.
        """
        x = self._around(x, self.norm_1, lambda y: self.attention(y, mask=mask))
        x = self._around(x, self.norm_2, lambda y: self.cross_attention(y, memory, mask=memory_mask))
        return self._around(x, self.norm_3, self.feed_forward)


class Transformer(nn.Module):
    """Reads a source and says at every position of the target which token comes next.

    Parameters: source.weight (source_vocab, d_model), target.weight and head.weight (target_vocab, d_model), and
    encoder.N.* (EncoderBlock), decoder.N.* (CrossDecoderBlock); the head has no bias. Where share is True the three
    matrices are one and the same, and a state dict may name it source.weight, target.weight, head.weight, or several
    of them. Attribute: pad, the token that both sides are filled with.
    Raises: ValueError where share is True and the two vocabularies differ in size, or heads do not divide d_model.
    Source: Vaswani et al. 2017, §3.
    """

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
        if share and source_vocab != target_vocab:
            raise ValueError(
                f"share=True is one matrix for one vocabulary, but source_vocab={source_vocab} and "
                f"target_vocab={target_vocab}: give both sides one vocabulary, or share=False"
            )
        self.d_model, self.pad = d_model, pad
        self.source = nn.Embedding(source_vocab, d_model)
        self.target = nn.Embedding(target_vocab, d_model)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(EncoderBlock(d_model, heads, d_ff, dropout) for _ in range(layers))
        self.decoder = nn.ModuleList(CrossDecoderBlock(d_model, heads, d_ff, dropout) for _ in range(layers))
        self.head = nn.Linear(d_model, target_vocab, bias=False)
        self._start()
        if share:
            self.target.weight = self.head.weight = self.source.weight
            self.register_state_dict_post_hook(_store_once)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(_load_either)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _start(self) -> None:
        """Embeddings of length 1, since they are multiplied by √d_model and serve as the head too."""
        tables = {self.source.weight, self.target.weight, self.head.weight}
        for name, parameter in self.named_parameters():
            if parameter in tables:
                parameter.normal_(std=self.d_model**-0.5)
            elif parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                parameter.zero_()

    def forward(
        self, source: Int[Tensor, "batch key"], target: Int[Tensor, "batch position"]
    ) -> Float[Tensor, "batch position target_vocab"]:
        """The logits of the next target token at every position, in one pass."""
        return self.decode(target, self.encode(source), source)

    def encode(self, source: Int[Tensor, "batch key"]) -> Float[Tensor, "batch key d_model"]:
        """What the last encoder block says of every source token; padding is seen by none."""
        mask = padding_mask(source, self.pad)
        x = self._embed(self.source, source)
        for block in self.encoder:
            x = block(x, mask)
        return x

    def decode(
        self,
        target: Int[Tensor, "batch position"],
        memory: Float[Tensor, "batch key d_model"],
        source: Int[Tensor, "batch key"],
    ) -> Float[Tensor, "batch position target_vocab"]:
        """The logits after each target token, which sees those before it and the whole memory.

        The source is asked for its padding alone.
        """
        mask = causal_mask(target.shape[1], device=target.device) & padding_mask(target, self.pad)
        memory_mask = padding_mask(source, self.pad)
        x = self._embed(self.target, target)
        for block in self.decoder:
            x = block(x, memory, mask, memory_mask)
        logits: Tensor = self.head(x)
        return logits

    def _embed(
        self, table: nn.Embedding, tokens: Int[Tensor, "batch position"]
    ) -> Float[Tensor, "batch position d_model"]:
        """What each token is, as loud as √d_model makes it, and where it stands."""
        x = table(tokens) * math.sqrt(self.d_model)
        positions = sinusoidal_positions(tokens.shape[1], self.d_model, device=x.device, dtype=x.dtype)
        out: Tensor = self.dropout(x + positions)
        return out


_SHARED = ("source.weight", "target.weight", "head.weight")


def _store_once(_model: nn.Module, state: dict[str, Any], prefix: str, _metadata: object) -> None:
    """The state holds the shared matrix under one name, as file formats without shared tensors want it."""
    for name in _SHARED[1:]:
        del state[f"{prefix}{name}"]


def _load_either(_model: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """The state may hold the shared matrix under any of its names."""
    names = [f"{prefix}{name}" for name in _SHARED]
    found = [state[name] for name in names if name in state]
    if found:
        state.update(dict.fromkeys(names, found[0]))


@torch.no_grad()
def greedy_search(
    model: Transformer, source: Int[Tensor, "batch key"], start: int, end: int, max_length: int
) -> Int[Tensor, "batch position"]:
    """The sentence that takes the most likely token at every step.

    Each row begins with `start` and ends with `end`, if it comes to that before there are max_length tokens (start and
    end included); behind it the row is filled with the model's `pad`. Dropout is off, and the mode stays as it was.
    """
    with _evaluating(model):
        memory = model.encode(source)
        target = source.new_full((len(source), 1), start)
        done = torch.zeros_like(source[:, 0], dtype=torch.bool)
        while target.shape[1] < max_length and not done.all():
            token = model.decode(target, memory, source)[:, -1].argmax(-1).masked_fill(done, _pad(model))
            target = torch.cat([target, rearrange(token, "batch -> batch 1")], dim=1)
            done = done | (token == end)
    return target


@torch.no_grad()
def beam_search(
    model: Transformer,
    source: Int[Tensor, "batch key"],
    start: int,
    end: int,
    max_length: int,
    beams: int = 4,
    alpha: float = 0.6,
) -> Int[Tensor, "batch position"]:
    """The best sentence found by following the `beams` most likely beginnings side by side.

    A sentence that has ended keeps its place among the beams. In the end, sentences of n tokens (the end is one, the
    start is none) are compared by log p / ((5 + n) / 6)^alpha, those that max_length has cut among them. The rows are
    as in greedy_search.
    Source: Wu et al. 2016, §7 (the penalty, without its coverage term); Vaswani et al. 2017, §6.1.
    """
    with _evaluating(model):
        memory = repeat(model.encode(source), "batch ... -> (batch beam) ...", beam=beams)
        sources = repeat(source, "batch key -> (batch beam) key", beam=beams)
        hopes = _Beams(len(source), beams, start, end, _pad(model), source.device)
        while hopes.tokens.shape[-1] < max_length and not hopes.done.all():
            target = rearrange(hopes.tokens, "batch beam position -> (batch beam) position")
            logits = model.decode(target, memory, sources)[:, -1]
            hopes.grow(rearrange(logits.log_softmax(-1), "(batch beam) vocab -> batch beam vocab", beam=beams))
    return hopes.best(alpha)


def _pad(model: Transformer) -> int:
    pad: int = getattr(model, "pad", 0)
    return pad


class _Beams:
    """The beginnings that are followed: their tokens, log-probabilities and lengths, and which have ended."""

    def __init__(self, batch: int, beams: int, start: int, end: int, pad: int, device: torch.device) -> None:
        self.end, self.pad = end, pad
        self.tokens = torch.full((batch, beams, 1), start, device=device)
        self.done = torch.zeros(batch, beams, dtype=torch.bool, device=device)
        self.length = torch.zeros(batch, beams, dtype=torch.long, device=device)
        # All beams begin alike: if more than one of them were possible, all would go the same way.
        self.score = torch.full((batch, beams), -math.inf, device=device)
        self.score[:, 0] = 0.0

    def grow(self, log_p: Float[Tensor, "batch beam vocab"]) -> None:
        """Every beginning by every token, of which the best stay."""
        batch, beams, vocab = log_p.shape
        kept = torch.full((vocab,), -math.inf, device=log_p.device)
        kept[self.pad] = 0.0
        ended = rearrange(self.done, "batch beam -> batch beam 1")
        total = rearrange(self.score, "batch beam -> batch beam 1") + torch.where(ended, kept, log_p)
        # What has ended is not compared with what has not: it stays.
        rank = torch.where(ended & (total > -math.inf), math.inf, total)
        choice = rank.flatten(1).topk(beams).indices
        parent, token = choice // vocab, choice % vocab
        rows = rearrange(torch.arange(batch, device=choice.device), "batch -> batch 1")
        self.score = total.flatten(1).gather(1, choice)
        self.tokens = torch.cat([self.tokens[rows, parent], rearrange(token, "batch beam -> batch beam 1")], dim=-1)
        self.length = self.length[rows, parent] + ~self.done[rows, parent]
        self.done = self.done[rows, parent] | ((token == self.end) & (self.score > -math.inf))

    def best(self, alpha: float) -> Int[Tensor, "batch position"]:
        """The winner of every row, cut to the longest of the winners."""
        score = self.score / ((5 + self.length) / 6) ** alpha
        rows, winner = torch.arange(len(score), device=score.device), score.argmax(-1)
        return self.tokens[rows, winner, : 1 + int(self.length[rows, winner].max())]
