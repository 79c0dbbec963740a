"""A vision transformer: patches, a class token, layers of einops."""

import torch
from einops import pack, rearrange, reduce, repeat, unpack
from einops.layers.torch import Rearrange, Reduce
from jaxtyping import Float
from torch import Tensor, nn


def patches(images: Float[Tensor, "batch channel height width"], size: int) -> Float[Tensor, "batch position d_patch"]:
    """Squares in reading order."""
    return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=size, q=size)


class PatchEmbedding(nn.Module):
    """By a convolution."""

    def __init__(self, channels: int, d_model: int, patch: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, d_model, kernel_size=patch, stride=patch)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch position d_model"]:
        """One row a patch."""
        return self.project(images).flatten(2).transpose(1, 2)


class EncoderBlock(nn.Module):
    """Pre-norm, qkv fused."""

    def __init__(self, d_model: int, heads: int, d_ff: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (d_model // heads) ** -0.5
        self.norm_1 = nn.LayerNorm(d_model)
        self.norm_2 = nn.LayerNorm(d_model)
        self.to_qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.to_out = nn.Sequential(Rearrange("b h n d -> b n (h d)"), nn.Linear(d_model, d_model), nn.Dropout(0.0))
        self.feed_forward = nn.Sequential(nn.Linear(d_model, d_ff), nn.GELU(), nn.Linear(d_ff, d_model))

    def attend(self, x: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch position d_model"]:
        """Self-attention."""
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in self.to_qkv(x).chunk(3, dim=-1))
        weights = (torch.matmul(q, k.transpose(-1, -2)) * self.scale).softmax(dim=-1)
        return self.to_out(torch.matmul(weights, v))

    def forward(self, x: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch position d_model"]:
        """Two skips."""
        x = x + self.attend(self.norm_1(x))
        return x + self.feed_forward(self.norm_2(x))


class ViT(nn.Module):
    """Images to classes."""

    def __init__(
        self, image: int, patch: int, channels: int, classes: int, d_model: int, layers: int, heads: int, d_ff: int
    ) -> None:
        super().__init__()
        count = (image // patch) ** 2
        self.embed = nn.Sequential(
            Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch),
            nn.Linear(patch * patch * channels, d_model),
        )
        self.cls = nn.Parameter(torch.zeros(1, 1, d_model))
        self.positions = nn.Parameter(torch.zeros(1, count + 1, d_model))
        self.blocks = nn.Sequential(*[EncoderBlock(d_model, heads, d_ff) for _ in range(layers)])
        self.head = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, classes))
        self.pool = Reduce("b n d -> b d", "mean")

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """From the class token."""
        x = self.embed(images)
        cls = repeat(self.cls, "1 1 d -> b 1 d", b=x.shape[0])
        x = torch.cat([cls, x], dim=1) + self.positions
        x = self.blocks(x)
        return self.head(x[:, 0])

    def pooled(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch d_model"]:
        """The mean of all."""
        x = self.blocks(self.embed(images))
        return self.pool(x)


def with_token(
    x: Float[Tensor, "batch position d_model"], token: Float[Tensor, "d_model"]
) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch position d_model"]]:
    """Pack a token in front, and take both apart again."""
    token = repeat(token, "d -> b d", b=x.shape[0])
    packed, shapes = pack([token, x], "b * d")
    packed = packed - reduce(packed, "b n d -> b 1 d", "mean")
    first, rest = unpack(packed, shapes, "b * d")
    return first, rest


def demo() -> None:
    """Run all."""
    images = torch.randn(2, 3, 8, 8)
    patches(images, 4)
    PatchEmbedding(3, 12, 4)(images)
    model = ViT(8, 4, 3, 5, 12, 2, 3, 20)
    model(images)
    model.pooled(images)
    with_token(torch.randn(2, 5, 12), torch.randn(12))
