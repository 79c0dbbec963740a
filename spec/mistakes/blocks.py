"""What goes wrong in norms, feed-forward networks and blocks."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference.blocks import DecoderBlock, FeedForward, LayerNorm, RMSNorm
from spec.mistakes import instead_of

Maybe = Tensor | None


def _normed(norm: LayerNorm, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias


@instead_of(LayerNorm)
class divides_by_the_unbiased_variance(LayerNorm):  # noqa: N801
    """The variance is divided by d_model − 1, as `x.var(-1)` does. Say `unbiased=False`: d_model is due."""

    def forward(self, x: Tensor) -> Tensor:
        """With Bessel's correction."""
        return _normed(self, x, x.mean(-1, keepdim=True), x.var(-1, keepdim=True))


@instead_of(LayerNorm)
class divides_by_the_variance(LayerNorm):  # noqa: N801
    """The tokens are divided by their variance. It must be its root, the standard deviation."""

    def forward(self, x: Tensor) -> Tensor:
        """Without the root."""
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + self.eps) * self.weight + self.bias


@instead_of(LayerNorm)
class eps_outside_the_root(LayerNorm):  # noqa: N801
    """eps is added to the standard deviation. It belongs to the variance, under the root, which has no slope at 0."""

    def forward(self, x: Tensor) -> Tensor:
        """√variance + eps."""
        deviation = x.var(-1, keepdim=True, unbiased=False).sqrt() + self.eps
        return (x - x.mean(-1, keepdim=True)) / deviation * self.weight + self.bias


@instead_of(LayerNorm)
class norms_without_eps(LayerNorm):  # noqa: N801
    """There is no eps: a token whose channels are all equal is divided by 0."""

    def forward(self, x: Tensor) -> Tensor:
        """The formula of the idea, not of the computer."""
        deviation = x.var(-1, keepdim=True, unbiased=False).sqrt()
        return (x - x.mean(-1, keepdim=True)) / deviation * self.weight + self.bias


@instead_of(LayerNorm)
class eps_is_fixed(LayerNorm):  # noqa: N801
    """eps is taken as an argument, and 1e-5 is used all the same."""

    def forward(self, x: Tensor) -> Tensor:
        """With torch's default."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias)


@instead_of(LayerNorm)
class norms_over_positions_too(LayerNorm):  # noqa: N801
    """Mean and variance run over positions and channels: tokens see each other. They belong to a token alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Over the last two axes."""
        axes = tuple(range(-min(2, x.ndim), 0))
        return _normed(self, x, x.mean(axes, keepdim=True), x.var(axes, keepdim=True, unbiased=False))


@instead_of(LayerNorm)
class norms_over_the_whole_tensor(LayerNorm):  # noqa: N801
    """`x.mean()` and `x.var()` have no axis: they run over the whole tensor, and sequences see each other. They belong
    to a token alone: `x.mean(-1, keepdim=True)`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Over all axes."""
        return _normed(self, x, x.mean(), x.var(unbiased=False))


@instead_of(LayerNorm)
class norms_over_the_batch(LayerNorm):  # noqa: N801
    """Mean and variance run over the tokens, for each channel: that is batch norm. They run over the channels."""

    def forward(self, x: Tensor) -> Tensor:
        """As in batch norm."""
        tokens = x.reshape(-1, x.shape[-1])
        return _normed(self, x, tokens.mean(0), tokens.var(0, unbiased=False))


@instead_of(LayerNorm)
class norms_an_axis_by_number(LayerNorm):  # noqa: N801
    """The statistics run over axis 2 by number, which is d_model with one batch axis alone. Count from the end: −1."""

    def forward(self, x: Tensor) -> Tensor:
        """Over axis 2."""
        return _normed(self, x, x.mean(2, keepdim=True), x.var(2, keepdim=True, unbiased=False))


@instead_of(LayerNorm)
class keeps_the_mean(LayerNorm):  # noqa: N801
    """The mean is not taken off. That is RMSNorm; LayerNorm centres each token first."""

    def forward(self, x: Tensor) -> Tensor:
        """Like RMSNorm, with a shift."""
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight + self.bias


@instead_of(LayerNorm)
class divides_by_the_root_mean_square(LayerNorm):  # noqa: N801
    """The centred tokens are divided by the root mean square of x. It must be that of what is left without the mean."""

    def forward(self, x: Tensor) -> Tensor:
        """The mean is taken off above, and not below."""
        return _normed(self, x, x.mean(-1, keepdim=True), x.square().mean(-1, keepdim=True))


@instead_of(LayerNorm)
class gain_before_the_norm(LayerNorm):  # noqa: N801
    """Gain and shift act before the statistics are taken, which take them off again. They come last."""

    def forward(self, x: Tensor) -> Tensor:
        """In the wrong order."""
        return F.layer_norm(x * self.weight + self.bias, self.weight.shape, eps=self.eps)


@instead_of(LayerNorm)
class shift_before_the_gain(LayerNorm):  # noqa: N801
    """The gain multiplies the shift too, (normed + bias) · weight. The shift comes last: normed · weight + bias."""

    def forward(self, x: Tensor) -> Tensor:
        """After the norm, and in the wrong order."""
        return (F.layer_norm(x, self.weight.shape, eps=self.eps) + self.bias) * self.weight


@instead_of(LayerNorm)
class shift_is_forgotten(LayerNorm):  # noqa: N801
    """The bias is a parameter and is not added."""

    def forward(self, x: Tensor) -> Tensor:
        """The gain alone."""
        return F.layer_norm(x, self.weight.shape, self.weight, None, self.eps)


@instead_of(LayerNorm)
class gain_starts_at_random(LayerNorm):  # noqa: N801
    """The gain starts as normal numbers around 0, and so does the stream. It starts at one."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__(d_model, eps)
        self.weight = nn.Parameter(torch.randn(d_model))


@instead_of(LayerNorm)
class norm_gains_are_plain_tensors(LayerNorm):  # noqa: N801
    """Gain and shift are plain tensors, which no optimizer moves and no file holds. Make them nn.Parameter."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__(d_model, eps)
        del self.weight, self.bias
        object.__setattr__(self, "weight", torch.ones(d_model, requires_grad=True))
        object.__setattr__(self, "bias", torch.zeros(d_model, requires_grad=True))


@instead_of(LayerNorm)
class statistics_are_detached(LayerNorm):  # noqa: N801
    """Mean and variance are cut from the graph, and the gradient takes them for fixed numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """With statistics that have no history."""
        fixed = x.detach()
        return _normed(self, x, fixed.mean(-1, keepdim=True), fixed.var(-1, keepdim=True, unbiased=False))


@instead_of(LayerNorm)
class variance_as_a_difference(LayerNorm):  # noqa: N801
    """The variance is the mean of the squares minus the square of the mean: far from 0 nothing is left of it."""

    def forward(self, x: Tensor) -> Tensor:
        """Two large numbers, and a small difference."""
        mean = x.mean(-1, keepdim=True)
        variance = (x.square().mean(-1, keepdim=True) - mean.square()).clamp_min(0)
        return _normed(self, x, mean, variance)


@instead_of(LayerNorm)
class centres_in_place(LayerNorm):  # noqa: N801
    """`x -= mean` changes the caller's tensor. Write `x = x - mean`."""

    def forward(self, x: Tensor) -> Tensor:
        """The mean is taken off the caller's x."""
        x.detach().sub_(x.detach().mean(-1, keepdim=True))
        return super().forward(x)


@instead_of(LayerNorm)
class statistics_in_low_precision(LayerNorm):  # noqa: N801
    """Mean and variance are computed in the input's dtype: float16 overflows, bfloat16 has three digits."""

    def forward(self, x: Tensor) -> Tensor:
        """Every step in x's dtype."""
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred / (variance + self.eps).sqrt() * self.weight + self.bias


@instead_of(LayerNorm)
class norm_in_float32(LayerNorm):  # noqa: N801
    """The result stays in float32. It has to be turned back into the dtype that came in."""

    def forward(self, x: Tensor) -> Tensor:
        """Wide to the end."""
        return F.layer_norm(x.float(), self.weight.shape, self.weight.float(), self.bias.float(), self.eps)


@instead_of(LayerNorm)
class asks_for_a_constant_row(LayerNorm):  # noqa: N801
    """Python asks for a tensor's value (`if (variance == 0).any():`), and a GPU has to stop for the answer."""

    def forward(self, x: Tensor) -> Tensor:
        """A question that eps has answered."""
        return x * 0 + self.bias if not x.any() else super().forward(x)


@instead_of(RMSNorm)
class rms_takes_the_mean_off(RMSNorm):  # noqa: N801
    """The mean is taken off first. That is LayerNorm; RMSNorm rescales and does not shift."""

    def forward(self, x: Tensor) -> Tensor:
        """Centred first."""
        return super().forward(x - x.mean(-1, keepdim=True))


@instead_of(RMSNorm)
class rms_by_the_deviation(RMSNorm):  # noqa: N801
    """The tokens are divided by their standard deviation, which leaves the mean out. The root mean square counts it."""

    def forward(self, x: Tensor) -> Tensor:
        """By the variance."""
        return x / (x.var(-1, keepdim=True, unbiased=False) + self.eps).sqrt() * self.weight


@instead_of(RMSNorm)
class rms_by_torchs_variance(RMSNorm):  # noqa: N801
    """The tokens are divided by the root of `x.var(-1)`. The mean of the squares is due: `x.square().mean(-1)`."""

    def forward(self, x: Tensor) -> Tensor:
        """By the variance, with Bessel's correction."""
        return x / (x.var(-1, keepdim=True) + self.eps).sqrt() * self.weight


@instead_of(RMSNorm)
class rms_by_the_sum_of_squares(RMSNorm):  # noqa: N801
    """The squares are summed, which makes the length 1. Their mean is due: then the channels have size 1."""

    def forward(self, x: Tensor) -> Tensor:
        """To length 1."""
        return x / (x.square().sum(-1, keepdim=True) + self.eps).sqrt() * self.weight


@instead_of(RMSNorm)
class rms_without_the_root(RMSNorm):  # noqa: N801
    """The tokens are divided by the mean of their squares. Its root is due."""

    def forward(self, x: Tensor) -> Tensor:
        """Without the root."""
        return x / (x.square().mean(-1, keepdim=True) + self.eps) * self.weight


@instead_of(RMSNorm)
class rms_eps_outside_the_root(RMSNorm):  # noqa: N801
    """eps is added to the root mean square. It belongs under the root, which has no slope at 0."""

    def forward(self, x: Tensor) -> Tensor:
        """√mean + eps."""
        return x / (x.square().mean(-1, keepdim=True).sqrt() + self.eps) * self.weight


@instead_of(RMSNorm)
class rms_without_eps(RMSNorm):  # noqa: N801
    """There is no eps: a token of zeros is divided by 0."""

    def forward(self, x: Tensor) -> Tensor:
        """The formula of the idea, not of the computer."""
        return x / x.square().mean(-1, keepdim=True).sqrt() * self.weight


@instead_of(RMSNorm)
class rms_over_positions_too(RMSNorm):  # noqa: N801
    """The mean of squares runs over positions and channels: tokens see each other."""

    def forward(self, x: Tensor) -> Tensor:
        """Over the last two axes."""
        axes = tuple(range(-min(2, x.ndim), 0))
        return x / (x.square().mean(axes, keepdim=True) + self.eps).sqrt() * self.weight


@instead_of(RMSNorm)
class rms_over_the_whole_tensor(RMSNorm):  # noqa: N801
    """The mean of squares has no axis: it runs over the whole tensor, and sequences see each other."""

    def forward(self, x: Tensor) -> Tensor:
        """Over all axes."""
        return x / (x.square().mean() + self.eps).sqrt() * self.weight


@instead_of(RMSNorm)
class rms_gain_is_forgotten(RMSNorm):  # noqa: N801
    """The weight is a parameter and multiplies nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Normed, and that is all."""
        return F.rms_norm(x, self.weight.shape, eps=self.eps)


@instead_of(RMSNorm)
class rms_gain_is_a_plain_tensor(RMSNorm):  # noqa: N801
    """The gain is a plain tensor, which no optimizer moves and no file holds. Make it an nn.Parameter."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__(d_model, eps)
        del self.weight
        object.__setattr__(self, "weight", torch.ones(d_model, requires_grad=True))


@instead_of(RMSNorm)
class rms_is_detached(RMSNorm):  # noqa: N801
    """The root mean square is cut from the graph, and the gradient takes it for a fixed number."""

    def forward(self, x: Tensor) -> Tensor:
        """With statistics that have no history."""
        return x / (x.detach().square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight


@instead_of(RMSNorm)
class rms_in_low_precision(RMSNorm):  # noqa: N801
    """The squares are taken in the input's dtype: in float16, 300² is ∞."""

    def forward(self, x: Tensor) -> Tensor:
        """Every step in x's dtype."""
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight


@instead_of(RMSNorm)
class rms_in_float32(RMSNorm):  # noqa: N801
    """What comes in low precision goes out in float32. It has to be turned back into the dtype that came in."""

    def forward(self, x: Tensor) -> Tensor:
        """Wide to the end."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight


@instead_of(RMSNorm)
class rms_float32_for_all(RMSNorm):  # noqa: N801
    """Whatever comes in, float64 too, goes out in float32. The dtype that came in is due: `.type_as(x)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Narrowed, or widened, to the end."""
        wide = x.float()
        return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight.float()


@instead_of(FeedForward)
class bend_is_forgotten(FeedForward):  # noqa: N801
    """There is no activation between the layers: two linear layers are one."""

    def forward(self, x: Tensor) -> Tensor:
        """Up and down."""
        out: Tensor = self.down(self.dropout(self.up(x) if self.gate is None else self.gate(x) + self.up(x)))
        return out


@instead_of(FeedForward)
class bends_after_the_second_layer(FeedForward):  # noqa: N801
    """The activation acts on the result. It stands between the two layers."""

    def forward(self, x: Tensor) -> Tensor:
        """Up, down, bend."""
        return self.bend(self.down(self.dropout(self.up(x))))


@instead_of(FeedForward)
class bends_again_at_the_end(FeedForward):  # noqa: N801
    """The activation acts on the result once more. It stands between the two layers, and there alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Up, bend, down, bend."""
        out = super().forward(x)
        return self.bend(out) if self.gate is None else out


@instead_of(FeedForward)
class gate_of_every_activation(FeedForward):  # noqa: N801
    """There is a gate for every activation, and most do not use it. Make it where the activation is gated."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__(d_model, d_ff, activation, dropout)
        self.spare = nn.Linear(d_model, d_ff)


@instead_of(FeedForward)
class gelu_always(FeedForward):  # noqa: N801
    """The activation is taken as an argument, and GELU is used all the same."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__(d_model, d_ff, activation, dropout)
        self.bend = F.gelu


@instead_of(FeedForward)
class gelu_is_the_approximation(FeedForward):  # noqa: N801
    """ "gelu" is computed by its tanh approximation. That one is called gelu_tanh; gelu is x · Φ(x)."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__(d_model, d_ff, "gelu_tanh" if activation == "gelu" else activation, dropout)


@instead_of(FeedForward)
class gelu_tanh_is_exact(FeedForward):  # noqa: N801
    """ "gelu_tanh" is computed exactly. It is the tanh approximation, which GPT-2 was trained with."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__(d_model, d_ff, "gelu" if activation == "gelu_tanh" else activation, dropout)


@instead_of(FeedForward)
class swiglu_bends_up(FeedForward):  # noqa: N801
    """In swiglu the wrong one is bent: silu acts on the gate, and up stays as it is."""

    def forward(self, x: Tensor) -> Tensor:
        """Gate and up change places."""
        hidden = self.bend(self.up(x)) if self.gate is None else self.bend(self.up(x)) * self.gate(x)
        out: Tensor = self.down(self.dropout(hidden))
        return out


@instead_of(FeedForward)
class swiglu_by_a_sigmoid(FeedForward):  # noqa: N801
    """The gate is a sigmoid. That is GLU; in swiglu it is silu(x) = x · sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """GLU."""
        hidden = self.bend(self.up(x)) if self.gate is None else self.gate(x).sigmoid() * self.up(x)
        out: Tensor = self.down(self.dropout(hidden))
        return out


@instead_of(FeedForward)
class swiglu_without_a_gate(FeedForward):  # noqa: N801
    """Swiglu is a bend alone, silu(up(x)). It has a third layer, the gate: silu(gate(x)) · up(x)."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__(d_model, d_ff, activation, dropout)
        self.gate = None


@instead_of(FeedForward)
class swiglu_adds_the_gate(FeedForward):  # noqa: N801
    """In swiglu gate and up are added. They are multiplied: that is what a gate does."""

    def forward(self, x: Tensor) -> Tensor:
        """A sum."""
        hidden = self.bend(self.up(x)) if self.gate is None else self.bend(self.gate(x)) + self.up(x)
        out: Tensor = self.down(self.dropout(hidden))
        return out


@instead_of(FeedForward)
class feed_forward_mixes_positions(FeedForward):  # noqa: N801
    """The positions get the mean of all positions mixed in. Each is treated alone; attention is where they meet."""

    def forward(self, x: Tensor) -> Tensor:
        """A little of everybody."""
        return super().forward(x + x.mean(-2, keepdim=True))


@instead_of(FeedForward)
class feed_forward_hears_its_neighbours(FeedForward):  # noqa: N801
    """The first layer is a convolution over three positions: each hears the next. As a linear layer it has width 1."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__(d_model, d_ff, activation, dropout)
        wide = [nn.Conv1d(d_model, d_ff, 3, padding=1) for _ in range(2)]
        self.first, self.second = wide[0], wide[1] if self.gate is not None else None
        self.last = nn.Conv1d(d_ff, d_model, 1)
        del self.up, self.gate, self.down

    def forward(self, x: Tensor) -> Tensor:
        """Over time."""
        up = self.first(x.mT)
        hidden = self.bend(up) if self.second is None else self.bend(self.second(x.mT)) * up
        out: Tensor = self.last(self.dropout(hidden)).mT
        return out


@instead_of(FeedForward)
class skip_inside_feed_forward(FeedForward):  # noqa: N801
    """x is added to the result inside the network. The skip belongs to the block, which would add it twice."""

    def forward(self, x: Tensor) -> Tensor:
        """The right result, and x."""
        return x + super().forward(x)


@instead_of(FeedForward)
class hidden_layer_of_d_model(FeedForward):  # noqa: N801
    """d_ff is ignored: the hidden layer has 4 · d_model numbers, whatever is asked for."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__(d_model, 4 * d_model, activation, dropout)


@instead_of(FeedForward)
class network_drops_in_evaluation(FeedForward):  # noqa: N801
    """The network's dropout stays on in evaluation: `F.dropout` needs `training=self.training`."""

    def forward(self, x: Tensor) -> Tensor:
        """F.dropout with its own default."""
        hidden = self.bend(self.up(x)) if self.gate is None else self.bend(self.gate(x)) * self.up(x)
        out: Tensor = self.down(F.dropout(hidden, self.dropout.p))
        return out


@instead_of(FeedForward)
class network_never_drops(FeedForward):  # noqa: N801
    """The network's dropout is taken as an argument and never used."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__(d_model, d_ff, activation)


class _Block(DecoderBlock):
    """The right block, with its steps apart: a wrong one replaces a step."""

    def forward(self, x: Tensor, mask: Maybe = None, bias: Maybe = None, cache: Any = None) -> Tensor:
        """Attention, then the network."""
        attend = lambda y: self.attention(y, mask=mask, bias=bias, cache=cache)  # noqa: E731
        x = self._around(x, attend, self.norm_1)
        return self._around(x, self.feed_forward, self.norm_2)

    def _around(self, x: Tensor, sublayer: Any, norm: nn.Module) -> Tensor:
        out: Tensor = x + self.dropout(sublayer(norm(x))) if self.pre else norm(x + self.dropout(sublayer(x)))
        return out


@instead_of(DecoderBlock)
class no_skips(_Block):  # noqa: N801
    """There are no skips: sublayers replace the stream. They add to it, x + sublayer(norm(x))."""

    def _around(self, x: Tensor, sublayer: Any, norm: nn.Module) -> Tensor:
        out: Tensor = self.dropout(sublayer(norm(x))) if self.pre else norm(self.dropout(sublayer(x)))
        return out


@instead_of(DecoderBlock)
class no_skip_around_the_network(_Block):  # noqa: N801
    """The skip around the feed-forward network is missing. Each of the two sublayers has one."""

    def _around(self, x: Tensor, sublayer: Any, norm: nn.Module) -> Tensor:
        if sublayer is not self.feed_forward:
            return super()._around(x, sublayer, norm)
        out: Tensor = sublayer(norm(x)) if self.pre else norm(sublayer(x))
        return out


@instead_of(DecoderBlock)
class no_skip_around_attention(_Block):  # noqa: N801
    """The skip around the attention is missing. Each of the two sublayers has one."""

    def _around(self, x: Tensor, sublayer: Any, norm: nn.Module) -> Tensor:
        if sublayer is self.feed_forward:
            return super()._around(x, sublayer, norm)
        out: Tensor = sublayer(norm(x)) if self.pre else norm(sublayer(x))
        return out


@instead_of(DecoderBlock)
class skip_around_attention_twice(_Block):  # noqa: N801
    """The attention's sublayer adds x, and so does the block: x is there twice. One skip around each sublayer."""

    def _around(self, x: Tensor, sublayer: Any, norm: nn.Module) -> Tensor:
        if sublayer is self.feed_forward:
            return super()._around(x, sublayer, norm)
        return super()._around(x, lambda y: x + sublayer(y), norm)


@instead_of(DecoderBlock)
class every_skip_twice(_Block):  # noqa: N801
    """Both sublayers add x, and so does the block: the stream doubles each time. One skip around each sublayer."""

    def _around(self, x: Tensor, sublayer: Any, norm: nn.Module) -> Tensor:
        return super()._around(x, lambda y: x + sublayer(y), norm)


@instead_of(DecoderBlock)
class skips_the_normed_input(_Block):  # noqa: N801
    """The skip takes norm(x) instead of x, so the free way through the stack is normed too."""

    def _around(self, x: Tensor, sublayer: Any, norm: nn.Module) -> Tensor:
        if not self.pre:
            return super()._around(x, sublayer, norm)
        x = norm(x)
        out: Tensor = x + self.dropout(sublayer(x))
        return out


@instead_of(DecoderBlock)
class network_skips_the_attention(DecoderBlock):  # noqa: N801
    """The second skip takes the block's input, so the attention's result reaches the network and no further."""

    def forward(self, x: Tensor, mask: Maybe = None, bias: Maybe = None, cache: Any = None) -> Tensor:
        """x where the sum was due."""
        if not self.pre:
            return super().forward(x, mask, bias, cache)
        seen = x + self.attention(self.norm_1(x), mask=mask, bias=bias, cache=cache)
        out: Tensor = x + self.feed_forward(self.norm_2(seen))
        return out


@instead_of(DecoderBlock)
class attention_and_network_in_parallel(DecoderBlock):  # noqa: N801
    """Attention and network both read the block's input. Here the network reads what the attention left."""

    def forward(self, x: Tensor, mask: Maybe = None, bias: Maybe = None, cache: Any = None) -> Tensor:
        """Side by side."""
        if not self.pre:
            return super().forward(x, mask, bias, cache)
        out: Tensor = x + self.attention(self.norm_1(x), mask=mask, bias=bias) + self.feed_forward(self.norm_2(x))
        return out


@instead_of(DecoderBlock)
class network_before_attention(DecoderBlock):  # noqa: N801
    """The network comes first. Attention gathers, then the network works on what was gathered."""

    def forward(self, x: Tensor, mask: Maybe = None, bias: Maybe = None, cache: Any = None) -> Tensor:
        """In the wrong order."""
        if not self.pre:
            return super().forward(x, mask, bias, cache)
        x = x + self.feed_forward(self.norm_2(x))
        out: Tensor = x + self.attention(self.norm_1(x), mask=mask, bias=bias)
        return out


@instead_of(DecoderBlock)
class one_norm_for_both(_Block):  # noqa: N801
    """The first norm is used for both sublayers. Each has its own, and the second never learns."""

    def _around(self, x: Tensor, sublayer: Any, norm: nn.Module) -> Tensor:
        return super()._around(x, sublayer, self.norm_1)


@instead_of(DecoderBlock)
class one_norm_under_two_names(DecoderBlock):  # noqa: N801
    """norm_1 and norm_2 are one and the same module, so both sublayers share its gain. Build two."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm_2 = self.norm_1


@instead_of(DecoderBlock)
class norms_change_places(_Block):  # noqa: N801
    """norm_1 and norm_2 change places. The first belongs to the attention, the second to the network."""

    def _around(self, x: Tensor, sublayer: Any, norm: nn.Module) -> Tensor:
        return super()._around(x, sublayer, self.norm_1 if norm is self.norm_2 else self.norm_2)


@instead_of(DecoderBlock)
class network_without_a_norm(_Block):  # noqa: N801
    """The network reads the stream as it is, without its norm. Both sublayers read norm(x)."""

    def _around(self, x: Tensor, sublayer: Any, norm: nn.Module) -> Tensor:
        if sublayer is not self.feed_forward or not self.pre:
            return super()._around(x, sublayer, norm)
        out: Tensor = x + self.dropout(sublayer(x))
        return out


@instead_of(DecoderBlock)
class post_norm_is_pre_norm(DecoderBlock):  # noqa: N801
    """norm="post" is taken as an argument, and the norms stand before the sublayers all the same."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pre = True


@instead_of(DecoderBlock)
class norms_the_sublayer_alone(_Block):  # noqa: N801
    """Post-norm is built as x + norm(sublayer(x)). The norm stands around the sum: norm(x + sublayer(x))."""

    def _around(self, x: Tensor, sublayer: Any, norm: nn.Module) -> Tensor:
        out: Tensor = super()._around(x, sublayer, norm) if self.pre else x + norm(self.dropout(sublayer(x)))
        return out


@instead_of(DecoderBlock)
class second_skip_before_the_norm(DecoderBlock):  # noqa: N801
    """In post-norm the second skip takes the sum before norm_1. What norm_1 made of it is due, as for the network."""

    def forward(self, x: Tensor, mask: Maybe = None, bias: Maybe = None, cache: Any = None) -> Tensor:
        """The free way that post-norm does not have."""
        if self.pre:
            return super().forward(x, mask, bias, cache)
        x = x + self.attention(x, mask=mask, bias=bias, cache=cache)
        out: Tensor = self.norm_2(x + self.feed_forward(self.norm_1(x)))
        return out


@instead_of(DecoderBlock)
class heads_cut_to_fit_the_block(DecoderBlock):  # noqa: N801
    """The number of heads is lowered until it divides d_model. It is an error when it does not."""

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__(d_model, math.gcd(d_model, heads), d_ff, dropout, norm, rotary)


@instead_of(DecoderBlock)
class block_drops_the_mask(DecoderBlock):  # noqa: N801
    """The block takes the mask and does not hand it on: the future is seen."""

    def forward(self, x: Tensor, mask: Maybe = None, bias: Maybe = None, cache: Any = None) -> Tensor:
        """Without the mask."""
        return super().forward(x, None, bias, cache)


@instead_of(DecoderBlock)
class block_is_always_causal(DecoderBlock):  # noqa: N801
    """The block hides the future, asked or not. The mask alone says who may look where."""

    def forward(self, x: Tensor, mask: Maybe = None, bias: Maybe = None, cache: Any = None) -> Tensor:
        """With a causal mask of its own."""
        past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        return super().forward(x, past if mask is None else mask, bias, cache)


@instead_of(DecoderBlock)
class block_mask_read_as_heads(DecoderBlock):  # noqa: N801
    """The block gives a mask of rank 3 its new axis in front, so the batch is read as heads. Hand it on as it is."""

    def forward(self, x: Tensor, mask: Maybe = None, bias: Maybe = None, cache: Any = None) -> Tensor:
        """With an axis in the wrong place."""
        return super().forward(x, mask[None] if mask is not None and mask.ndim == 3 else mask, bias, cache)


@instead_of(DecoderBlock)
class block_drops_the_bias(DecoderBlock):  # noqa: N801
    """The block takes the bias and does not hand it on: ALiBi has no effect."""

    def forward(self, x: Tensor, mask: Maybe = None, bias: Maybe = None, cache: Any = None) -> Tensor:
        """Without the bias."""
        return super().forward(x, mask, None, cache)


@instead_of(DecoderBlock)
class block_drops_rotary(DecoderBlock):  # noqa: N801
    """rotary is taken as an argument and not handed on to the attention."""

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__(d_model, heads, d_ff, dropout, norm)


@instead_of(DecoderBlock)
class block_knows_positions(DecoderBlock):  # noqa: N801
    """The block adds something that depends on the place in the sequence. Positions come in by the model."""

    def forward(self, x: Tensor, mask: Maybe = None, bias: Maybe = None, cache: Any = None) -> Tensor:
        """With a ramp along the sequence."""
        ramp = torch.arange(x.shape[1], device=x.device)[:, None].to(x.dtype)
        return super().forward(x, mask, bias, cache) + 0.01 * ramp


@instead_of(DecoderBlock)
class block_adds_in_place(DecoderBlock):  # noqa: N801
    """`x += …` changes the caller's tensor. Write `x = x + …`."""

    def forward(self, x: Tensor, mask: Maybe = None, bias: Maybe = None, cache: Any = None) -> Tensor:
        """Into the caller's x."""
        out = super().forward(x, mask, bias, cache)
        x.detach().copy_(out.detach())
        return out


@instead_of(DecoderBlock)
class attention_without_gradient(_Block):  # noqa: N801
    """The attention's result is cut from the graph, so its matrices never learn."""

    def _around(self, x: Tensor, sublayer: Any, norm: nn.Module) -> Tensor:
        if sublayer is self.feed_forward:
            return super()._around(x, sublayer, norm)
        return super()._around(x, lambda y: sublayer(y).detach(), norm)


@instead_of(DecoderBlock)
class attention_is_thrown_away(_Block):  # noqa: N801
    """The attention's result is not used: x passes by, and tokens never meet."""

    def _around(self, x: Tensor, sublayer: Any, norm: nn.Module) -> Tensor:
        if sublayer is self.feed_forward:
            return super()._around(x, sublayer, norm)
        return super()._around(x, lambda y: 0 * sublayer(y), norm)


@instead_of(DecoderBlock)
class block_drops_in_evaluation(_Block):  # noqa: N801
    """The block's dropout stays on in evaluation: `F.dropout` needs `training=self.training`."""

    def _around(self, x: Tensor, sublayer: Any, norm: nn.Module) -> Tensor:
        return super()._around(x, lambda y: F.dropout(sublayer(y), self.dropout.p), norm)


@instead_of(DecoderBlock)
class block_never_drops(DecoderBlock):  # noqa: N801
    """The block's dropout is taken as an argument and never used."""

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__(d_model, heads, d_ff, 0.0, norm, rotary)


@instead_of(DecoderBlock)
class block_spreads_nan(DecoderBlock):  # noqa: N801
    """−∞ in the bias where the mask hides: a row with nothing visible becomes NaN, and so does every gradient."""

    def forward(self, x: Tensor, mask: Maybe = None, bias: Maybe = None, cache: Any = None) -> Tensor:
        """NaN where a softmax over −∞ alone gives NaN."""
        out = super().forward(x, mask, bias, cache)
        if mask is None or mask.ndim != 3:
            return out
        return out.masked_fill(~mask.any(-1, keepdim=True), math.nan)
