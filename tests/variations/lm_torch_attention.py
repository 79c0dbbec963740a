"""`nn.MultiheadAttention` inside canonical blocks: ALiBi as a float mask for each head, a shared Parameter as head.

Hooks cut its fused matrix into query, key and value, and store the shared matrix once.
"""

# mypy: disable-error-code="arg-type, index, no-any-return, no-untyped-call"

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

LEVEL = "robust"
UNSUPPORTED = {"positions=rotary", "cache=True"}


class Attention(nn.Module):
    """torch's own, under canonical names."""

    def __init__(self, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"d_model={d_model} cannot be cut into heads={heads}")
        self.inner = nn.MultiheadAttention(d_model, heads, dropout=dropout, batch_first=True)
        self.register_load_state_dict_pre_hook(fuse)
        self.register_state_dict_post_hook(cut)

    def forward(self, x: Tensor, additive: Float[Tensor, "head query key"]) -> Tensor:
        """torch wants a mask for each head of each batch element."""
        mask = additive.repeat(x.shape[0], 1, 1)
        return self.inner(x, x, x, attn_mask=mask, need_weights=False)[0]


def fuse(_module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """query, key, value → in_proj; output → out_proj."""
    for kind in ("weight", "bias"):
        theirs = [f"{prefix}{name}.{kind}" for name in ("query", "key", "value")]
        if all(name in state_dict for name in theirs):
            state_dict[f"{prefix}inner.in_proj_{kind}"] = torch.cat([state_dict.pop(name) for name in theirs])
        if f"{prefix}output.{kind}" in state_dict:
            state_dict[f"{prefix}inner.out_proj.{kind}"] = state_dict.pop(f"{prefix}output.{kind}")


def cut(_module: nn.Module, state_dict: dict[str, Tensor], prefix: str, _: object) -> None:
    """The way back."""
    for kind in ("weight", "bias"):
        pieces = state_dict.pop(f"{prefix}inner.in_proj_{kind}").chunk(3)
        for name, piece in zip(("query", "key", "value"), pieces, strict=True):
            state_dict[f"{prefix}{name}.{kind}"] = piece.clone()  # safetensors stores no slices
        state_dict[f"{prefix}output.{kind}"] = state_dict.pop(f"{prefix}inner.out_proj.{kind}")


class Block(nn.Module):
    """Pre or post."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float, pre: bool) -> None:
        super().__init__()
        self.attention = Attention(d_model, heads, dropout)
        self.feed_forward = nn.Sequential()
        self.feed_forward.add_module("up", nn.Linear(d_model, d_ff))
        self.feed_forward.add_module("gelu", nn.GELU())
        self.feed_forward.add_module("down", nn.Linear(d_ff, d_model))
        self.norm_1, self.norm_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout, self.pre = nn.Dropout(dropout), pre

    def forward(self, x: Tensor, additive: Tensor) -> Tensor:
        """Two sublayers, two skips."""
        if self.pre:
            x = x + self.dropout(self.attention(self.norm_1(x), additive))
            return x + self.dropout(self.feed_forward(self.norm_2(x)))
        x = self.norm_1(x + self.dropout(self.attention(x, additive)))
        return self.norm_2(x + self.dropout(self.feed_forward(x)))


class DecoderLM(nn.Module):
    """Head and embedding are one Parameter under two names where they are tied."""

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
        if positions not in ("learned", "sinusoidal", "alibi", "none") or norm not in ("pre", "post"):
            raise ValueError(f"positions={positions!r} with norm={norm!r} is not offered")
        self.max_length, self.kind, self.tie = max_length, positions, tie
        self.tokens = nn.Embedding(vocab, d_model)
        if positions == "learned":
            self.positions = nn.Embedding(max_length, d_model)
        self.blocks = nn.ModuleList(
            [Block(d_model, heads, d_ff or 4 * d_model, dropout, norm == "pre") for _ in range(layers)]
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab, bias=False)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if weight.ndim == 2 and "blocks" not in name:
                    weight.normal_(std=0.02)
        if tie:
            self.head.weight = self.tokens.weight
        self.register_load_state_dict_pre_hook(complete)
        self.register_state_dict_post_hook(store_once)
        self.register_buffer("hidden", torch.ones(max_length, max_length).triu(1).bool(), persistent=False)
        self.register_buffer("slopes", 0.5 ** (8 * torch.arange(1, heads + 1) / heads), persistent=False)
        if positions == "sinusoidal":
            self.register_buffer("waves", waves(max_length, d_model), persistent=False)

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
        """Logits."""
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(f"{length} positions, but max_length={self.max_length}")
        place = torch.arange(length, device=tokens.device)
        x = self.tokens(tokens)
        if self.kind == "learned":
            x = x + self.positions(place)
        elif self.kind == "sinusoidal":
            x = x + self.waves[:length].to(x.dtype)
        distance = (place[:, None] - place).to(x.dtype)
        steepness = self.slopes if self.kind == "alibi" else torch.zeros_like(self.slopes)
        additive = -steepness.to(x.dtype)[:, None, None] * distance
        additive = additive.masked_fill(self.hidden[:length, :length], float("-inf"))
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, additive)
        return self.head(self.norm(x))


def waves(length: int, d_model: int) -> Float[Tensor, "position d_model"]:
    """Real and imaginary part of a turning complex number."""
    if d_model % 2:
        raise ValueError(f"d_model={d_model} is odd: no sine has its cosine")
    angle = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, d_model, 2) / d_model)
    turning = torch.view_as_real(torch.polar(torch.ones_like(angle), angle))
    return turning.flip(-1).flatten(-2)


def complete(module: DecoderLM, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """A tied dict may hold either name, or both."""
    if module.tie:
        names = prefix + "tokens.weight", prefix + "head.weight"
        for here, there in (names, names[::-1]):
            if here in state_dict:
                state_dict.setdefault(there, state_dict[here])


def store_once(module: DecoderLM, state_dict: dict[str, Tensor], prefix: str, _: object) -> None:
    """One tensor, one entry."""
    if module.tie:
        state_dict.pop(prefix + "head.weight")
