"""nanoGPT's style: fused qkv, `F.scaled_dot_product_attention`, a shared head, its own names inside.

State-dict hooks at the model translate between its names and the canonical ones in both directions.
"""

# mypy: disable-error-code="assignment, attr-defined, no-any-return, no-untyped-call"

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

LEVEL = "robust"
UNSUPPORTED = {"positions=rotary", "positions=alibi", "positions=sinusoidal", "norm=post", "cache=True"}


@dataclass(frozen=True)
class GPTConfig:
    """Sizes."""

    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    dropout: float
    use_wpe: bool
    tie: bool


class CausalSelfAttention(nn.Module):
    """One matrix for queries, keys and values of all heads."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        if config.n_embd % config.n_head != 0:
            raise ValueError(f"d_model={config.n_embd} is not divisible by heads={config.n_head}")
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)
        self.n_head, self.dropout = config.n_head, config.dropout

    def forward(self, x: Tensor) -> Tensor:
        """Causal attention."""
        B, T, C = x.size()
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))


class MLP(nn.Module):
    """Up, GELU, down."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.n_inner)
        self.c_proj = nn.Linear(config.n_inner, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Each position alone."""
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x))))


class Block(nn.Module):
    """Pre-norm."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """Two sublayers."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class DecoderLM(nn.Module):
    """The model; `transformer` holds everything but the head."""

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
        if positions not in ("learned", "none") or norm != "pre":
            raise ValueError(f"positions={positions!r} with norm={norm!r} is not offered")
        self.max_length = max_length
        self.config = config = GPTConfig(
            max_length, vocab, layers, heads, d_model, d_ff or 4 * d_model, dropout, positions == "learned", tie
        )
        parts = {"wte": nn.Embedding(vocab, d_model), "drop": nn.Dropout(dropout), "ln_f": nn.LayerNorm(d_model)}
        if config.use_wpe:
            parts["wpe"] = nn.Embedding(max_length, d_model)
        self.transformer = nn.ModuleDict({**parts, "h": nn.ModuleList(Block(config) for _ in range(layers))})
        self.lm_head = nn.Linear(d_model, vocab, bias=False)
        if tie:
            self.lm_head.weight = self.transformer["wte"].weight
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "ln_" not in name:
                depth = 2 * layers if name.endswith("c_proj.weight") else 1
                nn.init.normal_(parameter, mean=0.0, std=0.02 / math.sqrt(depth))
        self.register_load_state_dict_pre_hook(from_canonical)
        self.register_state_dict_post_hook(to_canonical)

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
        """Logits."""
        T = tokens.size(1)
        if self.config.block_size < T:
            raise ValueError(f"{T} tokens are more than max_length={self.config.block_size}")
        x = self.transformer["wte"](tokens)
        if self.config.use_wpe:
            x = x + self.transformer["wpe"](torch.arange(T, device=tokens.device))
        x = self.transformer["drop"](x)
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


def names(model: DecoderLM) -> dict[str, tuple[str, ...]]:
    """Each own name, and the canonical ones that it holds, stacked along the first axis."""
    found: dict[str, tuple[str, ...]] = {"transformer.wte.weight": ("tokens.weight",)}
    if model.config.use_wpe:
        found["transformer.wpe.weight"] = ("positions.weight",)
    parts = {
        "ln_1": ("norm_1",),
        "attn.c_attn": ("attention.query", "attention.key", "attention.value"),
        "attn.c_proj": ("attention.output",),
        "ln_2": ("norm_2",),
        "mlp.c_fc": ("feed_forward.up",),
        "mlp.c_proj": ("feed_forward.down",),
    }
    for kind in ("weight", "bias"):
        found[f"transformer.ln_f.{kind}"] = (f"norm.{kind}",)
        for layer in range(model.config.n_layer):
            for own, theirs in parts.items():
                found[f"transformer.h.{layer}.{own}.{kind}"] = tuple(f"blocks.{layer}.{one}.{kind}" for one in theirs)
    if not model.config.tie:
        found["lm_head.weight"] = ("head.weight",)
    return found


def from_canonical(module: DecoderLM, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Canonical names become its own; what is missing stays missing, for torch to report."""
    if module.config.tie and (head := state_dict.pop(prefix + "head.weight", None)) is not None:
        state_dict.setdefault(prefix + "tokens.weight", head)
    for own, theirs in names(module).items():
        if all(prefix + one in state_dict for one in theirs):
            pieces = [state_dict.pop(prefix + one) for one in theirs]
            state_dict[prefix + own] = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    if module.config.tie and prefix + "transformer.wte.weight" in state_dict:
        state_dict[prefix + "lm_head.weight"] = state_dict[prefix + "transformer.wte.weight"]


def to_canonical(module: DecoderLM, state_dict: dict[str, Tensor], prefix: str, _: object) -> None:
    """Its own names become canonical; a shared head is stored once."""
    if module.config.tie:
        state_dict.pop(prefix + "lm_head.weight", None)
    for own, theirs in names(module).items():
        if prefix + own in state_dict:
            for one, piece in zip(theirs, state_dict.pop(prefix + own).chunk(len(theirs)), strict=True):
                state_dict[prefix + one] = piece.clone()  # safetensors stores no slices
