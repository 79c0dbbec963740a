"""minGPT's style behind a thin adapter: a config object, its own names, a buffered mask, a tuple returned inside.

The inner model was there first; `DecoderLM` only passes sizes in and unwraps the tuple.
"""

# mypy: disable-error-code="index, no-any-return"

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

LEVEL = "core"
UNSUPPORTED = {
    "positions=sinusoidal",
    "positions=rotary",
    "positions=alibi",
    "positions=none",
    "norm=post",
    "cache=True",
}


@dataclass
class Config:
    """What the inner model is made from."""

    n_vocab: int = 65
    n_ctx: int = 128
    n_embd: int = 64
    n_layer: int = 2
    n_head: int = 4
    n_hidden: int = 256
    drop: float = 0.1
    weight_sharing: bool = False


class SelfAttention(nn.Module):
    """Masked attention, heads by view and transpose."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        assert c.n_embd % c.n_head == 0
        self.q_proj = nn.Linear(c.n_embd, c.n_embd)
        self.k_proj = nn.Linear(c.n_embd, c.n_embd)
        self.v_proj = nn.Linear(c.n_embd, c.n_embd)
        self.proj = nn.Linear(c.n_embd, c.n_embd)
        self.attn_drop = nn.Dropout(c.drop)
        self.register_buffer("bias", torch.tril(torch.ones(c.n_ctx, c.n_ctx)).view(1, 1, c.n_ctx, c.n_ctx))
        self.n_head = c.n_head

    def forward(self, x: Tensor) -> Tensor:
        """Causal attention."""
        b, t, c = x.size()
        k = self.k_proj(x).view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        q = self.q_proj(x).view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
        att = q @ k.transpose(-2, -1) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
        att = self.attn_drop(F.softmax(att, dim=-1))
        return self.proj((att @ v).transpose(1, 2).contiguous().view(b, t, c))


class GPT(nn.Module):
    """The inner model."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.tok_emb = nn.Embedding(c.n_vocab, c.n_embd)
        self.pos_emb = nn.Parameter(torch.zeros(1, c.n_ctx, c.n_embd))
        self.drop = nn.Dropout(c.drop)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "ln1": nn.LayerNorm(c.n_embd),
                    "attn": SelfAttention(c),
                    "ln2": nn.LayerNorm(c.n_embd),
                    "mlp": nn.Sequential(
                        nn.Linear(c.n_embd, c.n_hidden),
                        nn.GELU(),
                        nn.Linear(c.n_hidden, c.n_embd),
                        nn.Dropout(c.drop),
                    ),
                }
            )
            for _ in range(c.n_layer)
        )
        self.ln_f = nn.LayerNorm(c.n_embd)
        self.lm_head = nn.Linear(c.n_embd, c.n_vocab, bias=False)
        self.apply(self._init_weights)
        if c.weight_sharing:
            del self.lm_head.weight  # the hook-free way to share: the head borrows the table when it is called

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(mean=0.0, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.data.zero_()

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits, and the loss where targets are given."""
        _, t = idx.size()
        assert t <= self.c.n_ctx, "the sequence is longer than the context"
        x = self.drop(self.tok_emb(idx) + self.pos_emb[:, :t, :])
        for layer in self.layers:
            x = x + layer["attn"](layer["ln1"](x))
            x = x + layer["mlp"](layer["ln2"](x))
        table = self.tok_emb.weight if self.c.weight_sharing else self.lm_head.weight
        logits = F.linear(self.ln_f(x), table)
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss


class DecoderLM(nn.Module):
    """The adapter."""

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
        assert positions == "learned"
        assert norm == "pre"
        self.gpt = GPT(Config(vocab, max_length, d_model, layers, heads, d_ff or 4 * d_model, dropout, tie))
        self.max_length = max_length

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
        """The inner model's logits alone."""
        logits, _ = self.gpt(tokens)
        return logits
