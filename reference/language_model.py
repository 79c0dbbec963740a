"""A decoder-only language model: embeddings, a stack of blocks, a norm and a head (Radford et al. 2019)."""

from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .blocks import DecoderBlock, LayerNorm
from .heads import LayerCache
from .masks import causal_mask
from .positions import LearnedPositions, alibi_bias, sinusoidal_positions

POSITIONS = ("learned", "sinusoidal", "rotary", "alibi", "none")


class Cache(Protocol):
    """The keys and values that every layer has already seen; chapter `generation` implements it."""

    @property
    def length(self) -> int:
        """How many positions are held."""
        ...

    def layer(self, number: int) -> LayerCache:
        """One block's share."""
        ...


class DecoderLM(nn.Module):
    """Reads tokens and says at every position which token comes next, seeing that position and those before it.

    Parameters: tokens.weight, positions.weight (learned positions alone), blocks.N.* (DecoderBlock), norm.* (LayerNorm,
    with either norm order), head.weight (tokens.weight itself where tie is True; the head has no bias). d_ff is
    4 · d_model where it is None.
    Raises: ValueError where positions or norm is unknown, or heads do not divide d_model.
    Source: Radford et al. 2019, §2.3; tied head: Press & Wolf 2017.
    """

    def __init__(
        self,
        vocab: int,
        max_length: int,
        d_model: int,
        layers: int,
        heads: int,
        d_ff: int | None = None,
        dropout: float = 0.0,
        positions: str = "learned",
        norm: str = "pre",
        tie: bool = True,
    ) -> None:
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f"positions={positions!r} is none of {', '.join(POSITIONS)}")
        self.max_length, self.heads, self.scheme, self.tie = max_length, heads, positions, tie
        d_ff = 4 * d_model if d_ff is None else d_ff
        self.tokens = nn.Embedding(vocab, d_model)
        self.positions = LearnedPositions(max_length, d_model) if positions == "learned" else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            DecoderBlock(d_model, heads, d_ff, dropout, norm, rotary=positions == "rotary") for _ in range(layers)
        )
        self.norm = LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab, bias=False)
        self._start()
        if tie:
            self.head.weight = self.tokens.weight
            self.register_state_dict_post_hook(_store_once)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(_load_either)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _start(self) -> None:
        """Small weights, so that at first all tokens are about equally likely; N(0, 1) would give a huge loss."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.02)
            elif name.endswith("bias"):
                parameter.zero_()

    def forward(
        self, tokens: Int[Tensor, "batch position"], cache: Cache | None = None
    ) -> Float[Tensor, "batch position vocab"]:
        """The logits of the next token at every position.

        With a cache, the tokens follow what it holds, and their keys and values are added to it.
        Raises: ValueError beyond max_length; torch's IndexError for a token id outside the vocabulary.
        """
        offset = 0 if cache is None else cache.length
        end = offset + tokens.shape[1]
        if end > self.max_length:
            raise ValueError(f"{end} tokens do not fit into max_length={self.max_length}")
        x = self.dropout(self._embed(tokens, offset))
        mask, bias = self._mask(x, offset), self._bias(x, offset)
        for number, block in enumerate(self.blocks):
            x = block(x, mask=mask, bias=bias, cache=None if cache is None else cache.layer(number))
        return self._logits(x)

    def _embed(self, tokens: Int[Tensor, "batch position"], offset: int) -> Float[Tensor, "batch position d_model"]:
        """What each token is and, for two of the schemes, where it stands."""
        x: Tensor = self.tokens(tokens)
        length, d_model = x.shape[1:]
        if self.positions is not None:
            x = x + self.positions(length, offset)
        elif self.scheme == "sinusoidal":
            x = x + sinusoidal_positions(offset + length, d_model, device=x.device)[offset:].to(x.dtype)
        return x

    def _mask(self, x: Float[Tensor, "batch position d_model"], offset: int) -> Bool[Tensor, "query key"]:
        """Nobody sees what comes later; what the cache holds came before."""
        return causal_mask(x.shape[1], offset + x.shape[1], device=x.device)

    def _bias(self, x: Float[Tensor, "batch position d_model"], offset: int) -> Float[Tensor, "head query key"] | None:
        """ALiBi makes far keys less visible, by a slope of its own in every head."""
        if self.scheme != "alibi":
            return None
        return alibi_bias(self.heads, offset + x.shape[1], device=x.device)[:, offset:].to(x.dtype)

    def _logits(self, x: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch position vocab"]:
        """How well each token fits: the softmax belongs to the loss and to sampling."""
        logits: Tensor = self.head(self.norm(x))
        return logits


def _store_once(_model: nn.Module, state: dict[str, Any], prefix: str, _metadata: object) -> None:
    """A tied model's state holds the shared matrix under one name, as file formats without shared tensors want it."""
    del state[f"{prefix}head.weight"]


def _load_either(_model: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """A tied model's state may name the shared matrix `tokens.weight`, `head.weight` or both."""
    tokens, head = f"{prefix}tokens.weight", f"{prefix}head.weight"
    shared = state.get(tokens, state.get(head))
    if shared is not None:
        state[tokens] = state[head] = shared
