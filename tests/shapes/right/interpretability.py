"""Raw parameters with named heads, a config, names of axes that differ from module to module."""

from dataclasses import dataclass

import einops
import numpy as np
import torch as t
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass
class Config:
    """Sizes."""

    d_model: int = 12
    d_vocab: int = 11
    n_ctx: int = 16
    d_head: int = 4
    d_mlp: int = 20
    n_heads: int = 3
    n_layers: int = 2
    debug: bool = False


class LayerNorm(nn.Module):
    """By hand."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.w = nn.Parameter(t.ones(cfg.d_model))
        self.b = nn.Parameter(t.zeros((cfg.d_model)))

    def forward(self, residual: Float[Tensor, "batch posn d_model"]) -> Float[Tensor, "batch posn d_model"]:
        """Centre and scale."""
        mean = residual.mean(dim=-1, keepdim=True)
        std = (residual.var(dim=-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        normed = (residual - mean) / std
        if self.cfg.debug:
            print(f"shape {normed.shape}")
        return normed * self.w + self.b


class Attention(nn.Module):
    """A matrix for each head."""

    IGNORE: Float[Tensor, ""]

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.W_Q = nn.Parameter(t.empty((cfg.n_heads, cfg.d_model, cfg.d_head)))
        self.W_K = nn.Parameter(t.empty((cfg.n_heads, cfg.d_model, cfg.d_head)))
        self.W_V = nn.Parameter(t.empty((cfg.n_heads, cfg.d_model, cfg.d_head)))
        self.W_O = nn.Parameter(t.empty((cfg.n_heads, cfg.d_head, cfg.d_model)))
        self.b_Q = nn.Parameter(t.zeros((cfg.n_heads, cfg.d_head)))
        self.b_O = nn.Parameter(t.zeros((cfg.d_model)))
        for weight in (self.W_Q, self.W_K, self.W_V, self.W_O):
            nn.init.normal_(weight, std=0.02)
        self.register_buffer("IGNORE", t.tensor(float("-inf"), dtype=t.float32))

    def forward(self, normalized: Float[Tensor, "batch posn d_model"]) -> Float[Tensor, "batch posn d_model"]:
        """Attend."""
        pattern = "b pos d_m, n_h d_m d_h -> b pos n_h d_h"
        q = einops.einsum(normalized, self.W_Q, pattern) + self.b_Q
        k = einops.einsum(normalized, self.W_K, pattern)
        v = einops.einsum(self.W_V, normalized, "n_h d_m d_h, b pos d_m -> b pos n_h d_h")
        scores = einops.einsum(q, k, "b posq n_h d_h, b posk n_h d_h -> b n_h posq posk")
        scores /= np.sqrt(q.shape[-1])
        probabilities = self.apply_causal_mask(scores).softmax(dim=-1)
        z = einops.einsum(probabilities, v, "batch n_h posq posk, batch posk n_h d_h -> batch posq n_h d_h")
        each = einops.einsum(
            z, self.W_O, "batch posn n_heads d_head, n_heads d_head d_model -> batch posn n_heads d_model"
        )
        return each.sum(dim=-2) + self.b_O

    def apply_causal_mask(
        self, scores: Float[Tensor, "batch n_heads query_pos key_pos"]
    ) -> Float[Tensor, "batch n_heads query_pos key_pos"]:
        """In place."""
        query_len, key_len = scores.shape[-2:]
        mask = t.triu(t.ones((query_len, key_len)), diagonal=1).bool()
        other = t.triu(t.ones(scores.shape[-2:]), diagonal=1).bool()
        scores.masked_fill_(mask | other, self.IGNORE)
        return scores


class MLP(nn.Module):
    """Up and down."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.W_in = nn.Parameter(t.randn((cfg.d_model, cfg.d_mlp)))
        self.W_out = nn.Parameter(t.randn((cfg.d_mlp, cfg.d_model)))
        self.b_in = nn.Parameter(t.zeros((cfg.d_mlp)))

    def forward(self, normalized: Float[Tensor, "batch posn d_model"]) -> Float[Tensor, "batch posn d_model"]:
        """Two products."""
        return t.nn.functional.gelu(normalized @ self.W_in + self.b_in) @ self.W_out


class TransformerBlock(nn.Module):
    """Two residual steps."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.ln1, self.ln2 = LayerNorm(cfg), LayerNorm(cfg)
        self.attn = Attention(cfg)
        self.mlp = MLP(cfg)

    def forward(self, resid_pre: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch position d_model"]:
        """Add."""
        resid_mid = self.attn(self.ln1(resid_pre)) + resid_pre
        return self.mlp(self.ln2(resid_mid)) + resid_mid


class Embed(nn.Module):
    """Tokens and positions."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.W_E = nn.Parameter(t.randn((cfg.d_vocab, cfg.d_model)))
        self.W_pos = nn.Parameter(t.randn((cfg.n_ctx, cfg.d_model)))

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position d_model"]:
        """Look both up, positions in two ways."""
        batch, seq_len = tokens.shape
        positions = einops.repeat(self.W_pos[:seq_len], "seq d_model -> batch seq d_model", batch=batch)
        index = t.arange(seq_len).repeat(batch).reshape((batch, seq_len))
        return self.W_E[tokens] + positions + self.W_pos[index] * 0


class Transformer(nn.Module):
    """All of it."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed = Embed(cfg)
        self.blocks = nn.ModuleList([TransformerBlock(cfg) for _ in range(cfg.n_layers)])
        self.ln_final = LayerNorm(cfg)
        self.W_U = nn.Parameter(t.randn((cfg.d_model, cfg.d_vocab)))

    def forward(self, tokens: Int[Tensor, "batch seq_len"]) -> Float[Tensor, "batch seq_len d_vocab"]:
        """Logits."""
        resid = self.embed(tokens)
        for block in self.blocks:
            resid = block(resid)
        return einops.einsum(
            self.ln_final(resid), self.W_U, "batch posn d_model, d_model d_vocab -> batch posn d_vocab"
        )


def get_log_probs(
    logits: Float[Tensor, "batch posn d_vocab"], tokens: Int[Tensor, "batch posn"]
) -> Float[Tensor, "batch posn-1"]:
    """Of the tokens that came."""
    log_probs = logits.log_softmax(dim=-1)
    return log_probs[:, :-1].gather(dim=-1, index=tokens[:, 1:].unsqueeze(-1)).squeeze(-1)


def replace_tokens(
    embeddings: Float[Tensor, "batch seq d_model"], where: Bool[Tensor, "batch seq"], new: Float[Tensor, "d_model"]
) -> Float[Tensor, "batch seq d_model"]:
    """One vector at some places."""
    embeddings = embeddings.clone()
    embeddings[where] = new
    return embeddings


class MaskedAutoencoder(nn.Module):
    """An encoder and a narrower decoder."""

    def __init__(
        self, embed_dim: int = 12, decoder_embed_dim: int | None = 8, class_tokens: int = 1, num_bins: int = 11
    ) -> None:
        super().__init__()
        self.class_tokens = class_tokens
        self.embed = nn.Embedding(num_bins, embed_dim)
        self.cls_token = nn.Parameter(t.randn(1, class_tokens, embed_dim)) if class_tokens else None
        decoder_embed_dim = decoder_embed_dim or embed_dim
        self.decoder_proj = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(t.randn(1, 1, decoder_embed_dim))
        self.head = nn.Linear(decoder_embed_dim, num_bins)

    def encode(self, x: Int[Tensor, "B N"]) -> tuple[Float[Tensor, "B R D"] | None, Float[Tensor, "B N D"]]:
        """Class tokens apart."""
        B, N = x.shape
        x = self.embed(x)
        if self.cls_token is not None:
            x = t.cat([self.cls_token.expand(B, -1, -1), x], dim=1)
            classes = x[:, : self.class_tokens]
            x = x[:, self.class_tokens :]
        else:
            classes = None
        return classes, x

    def decode(self, visible: Float[Tensor, "B N D"], target: Float[Tensor, "B M 3"]) -> Float[Tensor, "B M K"]:
        """Guess what is masked."""
        B, N, D = visible.shape
        M = target.shape[1]
        assert target.shape == (B, M, 3)
        x = t.cat([self.decoder_proj(visible), self.mask_token.expand(B, M, -1)], dim=1)
        return self.head(x[:, N:])

    def forward(
        self, x: Int[Tensor, "B N"], at: Float[Tensor, "B N 3"], visible: int | None = None
    ) -> Float[Tensor, ""]:
        """The loss of what is hidden."""
        B, N = x.shape
        visible = visible or N // 2
        _, embedded = self.encode(x[:, :visible])
        logits = self.decode(embedded, at[:, visible:])
        return nn.functional.cross_entropy(logits.view(-1, logits.size(-1)), x[:, visible:].reshape(-1))


def demo() -> None:
    """Run all."""
    cfg = Config()
    tokens = t.randint(0, 11, (2, 5))
    get_log_probs(Transformer(cfg)(tokens), tokens)
    replace_tokens(t.randn(2, 5, 12), tokens > 3, t.randn(12))
    model = MaskedAutoencoder()
    model.encode(tokens)
    model(tokens, t.randn(2, 5, 3))
