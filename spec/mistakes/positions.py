"""What goes wrong with positions."""

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from reference.positions import LearnedPositions, alibi_bias, rotary, sinusoidal_positions
from spec.mistakes import instead_of

Device = torch.device | str | None
Dtype = torch.dtype | None


def _even(d_model: int) -> None:
    if d_model % 2:
        raise ValueError(f"d_model={d_model} is odd")


def _table(angles: Tensor, device: Device, dtype: Dtype) -> Tensor:
    """Sines and cosines of (position, pair) angles, alternating."""
    pairs = torch.stack([angles.sin(), angles.cos()])
    return rearrange(pairs, "two position pair -> position (pair two)").to(device=device, dtype=dtype or torch.float32)


def _sinusoids(length: int, d_model: int, exponents: Tensor, device: Device, dtype: Dtype) -> Tensor:
    _even(d_model)
    return _table(torch.outer(torch.arange(length).double(), 10000.0 ** -exponents.double()), device, dtype)


@instead_of(sinusoidal_positions)
def exponent_without_two(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The exponent is i/d_model for pair i. It must be 2i/d_model, so that the slowest is near 10000."""
    return _sinusoids(length, d_model, torch.arange(d_model // 2) / d_model, device, dtype)


@instead_of(sinusoidal_positions)
def exponent_with_four(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The exponent is doubled twice, 4i/d_model: `arange(0, d_model, 2)` holds 2i already."""
    return _sinusoids(length, d_model, 2 * torch.arange(0, d_model, 2) / d_model, device, dtype)


@instead_of(sinusoidal_positions)
def exponent_by_floor_division(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The exponent is 2i // d_model, which is 0 everywhere: all pairs have one frequency. Divide by `/`."""
    return _sinusoids(length, d_model, torch.arange(0, d_model, 2) // d_model, device, dtype)


@instead_of(sinusoidal_positions)
def exponent_of_its_own_for_each_column(
    length: int, d_model: int, device: Device = None, dtype: Dtype = None
) -> Tensor:
    """Column j has the exponent j/d_model. Sine and cosine of one pair share the exponent 2i/d_model."""
    _even(d_model)
    exponents = torch.arange(d_model).double() / d_model
    angles = torch.outer(torch.arange(length).double(), 10000.0**-exponents)
    table = torch.where(torch.arange(d_model) % 2 == 0, angles.sin(), angles.cos())
    return table.to(device=device, dtype=dtype or torch.float32)


@instead_of(sinusoidal_positions)
def exponent_column_doubled(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """Column j has the exponent 2j/d_model. 2i is the number of the pair's first column, not twice the column."""
    _even(d_model)
    exponents = 2 * torch.arange(d_model).double() / d_model
    angles = torch.outer(torch.arange(length).double(), 10000.0**-exponents)
    table = torch.where(torch.arange(d_model) % 2 == 0, angles.sin(), angles.cos())
    return table.to(device=device, dtype=dtype or torch.float32)


@instead_of(sinusoidal_positions)
def multiplies_by_the_wavelength(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The position is multiplied by 10000^(2i/d_model). It must be divided by it."""
    return _sinusoids(length, d_model, -torch.arange(0, d_model, 2) / d_model, device, dtype)


@instead_of(sinusoidal_positions)
def wavelengths_up_to_a_thousand(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The base of the wavelengths is 1000. It must be 10000."""
    return _sinusoids(length, d_model, 0.75 * torch.arange(0, d_model, 2) / d_model, device, dtype)


@instead_of(sinusoidal_positions)
def sines_then_cosines(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """All sines stand before all cosines. They alternate: sines in even columns, cosines in odd ones."""
    table = sinusoidal_positions(length, d_model, device, dtype)
    return rearrange(table, "position (pair two) -> position (two pair)", two=2)


@instead_of(sinusoidal_positions)
def cosines_first(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """Cosines stand in the even columns. Sines belong there, cosines into the odd ones."""
    table = sinusoidal_positions(length, d_model, device, dtype)
    return rearrange(rearrange(table, "p (pair two) -> p pair two", two=2).flip(-1), "p pair two -> p (pair two)")


@instead_of(sinusoidal_positions)
def only_sines(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """Both columns of a pair are sines. The odd ones must be cosines, so that a pair is a point on a circle."""
    table = sinusoidal_positions(length, d_model, device, dtype)
    return table[:, 0::2].repeat_interleave(2, -1)


@instead_of(sinusoidal_positions)
def sinusoids_reach_the_base(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """Wavelengths are spaced by d_model/2 − 1 steps, so that the last one is 10000 times the first. The exponent is
    2i/d_model, and the last pair stays short of it.
    """
    _even(d_model)
    speeds = 10000.0 ** (-torch.arange(d_model // 2) / max(d_model // 2 - 1, 1))
    angles = torch.outer(torch.arange(float(length)), speeds)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2).to(device=device, dtype=dtype)


@instead_of(sinusoidal_positions)
def sinusoids_count_from_one(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The first position is 1. Positions count from 0."""
    return sinusoidal_positions(length + 1, d_model, device, dtype)[1:]


@instead_of(sinusoidal_positions)
def one_row_for_all_positions(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """All positions have the same row, as when the table is indexed by the batch. Index it by the position."""
    return sinusoidal_positions(length, d_model, device, dtype)[:1].expand(length, -1)


@instead_of(sinusoidal_positions)
def positions_as_shares_of_the_length(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """Positions are divided by the length, so a row changes when the sequence grows. Use them as they are."""
    _even(d_model)
    share = torch.arange(length).double() / length
    return _table(torch.outer(share, 10000.0 ** -(torch.arange(0, d_model, 2).double() / d_model)), device, dtype)


@instead_of(sinusoidal_positions)
def sinusoids_are_trained(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The sinusoids are a trainable parameter. They are fixed; learned positions are another exercise."""
    return nn.Parameter(sinusoidal_positions(length, d_model, device, dtype))


@instead_of(sinusoidal_positions)
def random_rows(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The rows are random numbers. They are sines and cosines of the position."""
    _even(d_model)
    return torch.randn(length, d_model, device=device, dtype=dtype)


@instead_of(sinusoidal_positions)
def odd_d_model_is_cut(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """For an odd d_model the last cosine is cut off without a word. An odd d_model is an error."""
    return sinusoidal_positions(length, d_model + d_model % 2, device, dtype)[:, :d_model]


@instead_of(sinusoidal_positions)
def odd_d_model_loses_a_cosine(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """An odd d_model gets one cosine less than sines (`div_term[: d_model // 2]`). An odd d_model is an error."""
    exponents = torch.arange(0, d_model, 2).double() / d_model
    return _table(torch.outer(torch.arange(length).double(), 10000.0**-exponents), device, dtype)[:, :d_model]


@instead_of(sinusoidal_positions)
def odd_d_model_raises_without_numbers(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The error about an odd d_model does not say which number was odd."""
    if d_model % 2:
        raise ValueError("d_model must be even")
    return sinusoidal_positions(length, d_model, device, dtype)


@instead_of(sinusoidal_positions)
def angles_in_half_precision(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """Positions are counted in half precision, which has three digits: far positions are wrong. Count in float32."""
    _even(d_model)
    position = torch.arange(length).bfloat16().double()
    return _table(torch.outer(position, 10000.0 ** -(torch.arange(0, d_model, 2).double() / d_model)), device, dtype)


@instead_of(sinusoidal_positions)
def sinusoids_in_float64(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The table is float64 when no dtype is asked for, and makes the whole model float64. float32 is due."""
    return sinusoidal_positions(length, d_model, device, dtype or torch.float64)


@instead_of(sinusoidal_positions)
def sinusoids_always_on_the_cpu(length: int, d_model: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The table is made on the CPU, whatever device is asked for."""
    return sinusoidal_positions(length, d_model, None, dtype)


@instead_of(LearnedPositions)
class learned_rows_ignore_the_offset(LearnedPositions):  # noqa: N801
    """The offset is not used: every piece of a sequence starts at row 0."""

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """The first rows."""
        return super().forward(length + offset)[:length]


@instead_of(LearnedPositions)
class learned_rows_from_the_end(LearnedPositions):  # noqa: N801
    """A short sequence gets the last rows of the table. The first position is row 0, whatever the length is."""

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """The last rows."""
        super().forward(length, offset)
        return self.weight[self.max_length - length - offset : self.max_length - offset]


@instead_of(LearnedPositions)
class learned_rows_are_all_returned(LearnedPositions):  # noqa: N801
    """All max_length rows are returned, whatever length is asked for."""

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """The whole table."""
        super().forward(length, offset)
        return self.weight


@instead_of(LearnedPositions)
class learned_row_for_all_positions(LearnedPositions):  # noqa: N801
    """All positions share one row, so nothing tells them apart. Each has a row of its own."""

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """One row, repeated."""
        return super().forward(length, offset) * 0 + self.weight[:1]


@instead_of(LearnedPositions)
class learned_rows_are_frozen(LearnedPositions):  # noqa: N801
    """The rows get no gradient (`.detach()`, a buffer, `from_pretrained`) and stay as random as they start."""

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """Rows, cut from the graph."""
        return super().forward(length, offset).detach()


@instead_of(LearnedPositions)
class learned_rows_wrap_around(LearnedPositions):  # noqa: N801
    """Beyond max_length the rows start over, so far tokens look like near ones. An error is due."""

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """Rows, modulo max_length."""
        return self.weight[torch.arange(offset, offset + length, device=self.weight.device) % self.max_length]


@instead_of(LearnedPositions)
class learned_rows_repeat_the_last(LearnedPositions):  # noqa: N801
    """Beyond max_length the last row comes again and again, as a clamp does it. An error is due."""

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """Rows, clamped to max_length."""
        position = torch.arange(offset, offset + length, device=self.weight.device)
        return self.weight[position.clamp_max(self.max_length - 1)]


@instead_of(LearnedPositions)
class learned_rows_are_cut_short(LearnedPositions):  # noqa: N801
    """Beyond max_length fewer rows than asked for come back, as a slice does it. An error is due."""

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """A slice that may be shorter."""
        return self.weight[offset : offset + length]


@instead_of(LearnedPositions)
class learned_rows_end_at_the_length(LearnedPositions):  # noqa: N801
    """The slice starts at the offset and ends at `length`, so rows are missing. It ends at offset + length."""

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """As many rows too few as the offset says."""
        super().forward(length, offset)
        return self.weight[offset:length]


@instead_of(LearnedPositions)
class learned_rows_forget_the_offsets_end(LearnedPositions):  # noqa: N801
    """Only the length is compared with max_length. With an offset, offset + length must fit."""

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """The last row again where there is none."""
        super().forward(length)
        return self.weight[
            torch.arange(offset, offset + length, device=self.weight.device).clamp_max(self.max_length - 1)
        ]


@instead_of(LearnedPositions)
class learned_rows_are_added_twice(LearnedPositions):  # noqa: N801
    """The rows are added twice. What is stored is what is added to the tokens, once."""

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """Doubled rows."""
        return 2 * super().forward(length, offset)


@instead_of(LearnedPositions)
class learned_rows_in_float32(LearnedPositions):  # noqa: N801
    """The rows are turned into float32, whatever dtype the module has."""

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """Rows in float32."""
        return super().forward(length, offset).float()


@instead_of(LearnedPositions)
class learned_rows_raise_without_numbers(LearnedPositions):  # noqa: N801
    """The error about a sequence that is too long does not say what max_length is."""

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """Rows, or an error that says little."""
        if offset + length > self.max_length:
            raise ValueError("too long")
        return super().forward(length, offset)


def _turn(x: Tensor, angles: Tensor) -> Tensor:
    """The right rotation of neighbouring pairs by (position, pair) angles."""
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    first, second = x[..., 0::2], x[..., 1::2]
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos])
    return rearrange(turned, "two ... pair -> ... (pair two)")


def _angles(x: Tensor, offset: int, base: float, exponent: float = 2.0) -> Tensor:
    position = torch.arange(offset, offset + x.shape[-2], device=x.device).to(
        torch.promote_types(x.dtype, torch.float32)
    )
    pair = torch.arange(x.shape[-1] // 2, device=x.device).to(position)
    return torch.outer(position, base ** (-exponent * pair / x.shape[-1]))


@instead_of(rotary)
def rotary_turns_nothing(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Nothing is turned: the positions are not used."""
    return rotary(x, offset, base) * 0 + x


@instead_of(rotary)
def rotary_counts_from_one(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """The first position is 1 and gets turned. Positions count from 0."""
    return rotary(x, offset + 1, base)


@instead_of(rotary)
def rotary_ignores_the_offset(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """The offset is not used: every piece of a sequence starts at position 0."""
    return rotary(x, 0, base)


@instead_of(rotary)
def rotary_ignores_the_base(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """The base is always 10000, whatever is asked for."""
    return rotary(x, offset)


@instead_of(rotary)
def rotary_exponent_without_two(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """The exponent is i/d_k for pair i. It must be 2i/d_k."""
    return _turn(x, _angles(x, offset, base, 1.0))


@instead_of(rotary)
def rotary_has_one_frequency(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """All pairs turn equally fast. Pair i turns by position / base^(2i/d_k)."""
    return _turn(x, _angles(x, offset, base, 0.0))


@instead_of(rotary)
def rotary_mixes_pairings(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Angles are laid out for neighbouring channels, but channels are swapped by halves, so two channels of a pair get
    different angles. Both must use one pairing.
    """
    angles = _angles(x, offset, base).repeat_interleave(2, -1)
    first, second = x.chunk(2, -1)
    return x * angles.cos().to(x) + torch.cat([-second, first], -1) * angles.sin().to(x)


@instead_of(rotary)
def rotary_mixes_pairings_the_other_way(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Angles are laid out for two halves, but neighbouring channels are swapped, so two channels of a pair get
    different angles. One pairing is due for both.
    """
    angles = _angles(x, offset, base).repeat(1, 2)
    swapped = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
    return x * angles.cos().to(x) + swapped * angles.sin().to(x)


@instead_of(rotary)
def rotary_returns_the_halves(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Neighbours are turned and then joined as two halves (`cat`), so channels change places. Use `torch.stack`."""
    return rearrange(rotary(x, offset, base), "... (pair two) -> ... (two pair)", two=2)


@instead_of(rotary)
def rotary_returns_neighbours(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Two halves are turned and then joined as neighbours (`stack`), so channels change places. Use `torch.cat`."""
    return rotary(rearrange(x, "... (two pair) -> ... (pair two)", two=2), offset, base)


@instead_of(rotary)
def rotary_adds_the_offset_to_the_angles(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """The offset is added to the finished angles. It belongs to the positions, before they meet the frequencies."""
    return _turn(x, _angles(x, 0, base) + offset)


@instead_of(rotary)
def rotary_forgets_the_minus(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """The minus is missing: (a cos + b sin, a sin + b cos) is no rotation. The first channel of a pair becomes
    a cos − b sin; whoever turns halves needs `cat([-second, first])`.
    """
    angles = _angles(x, offset, base)
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack([first * cos + second * sin, first * sin + second * cos], -1).flatten(-2)


@instead_of(rotary)
def rotary_mirrors(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """The minus stands at the wrong place: (a cos + b sin, a sin − b cos) is a mirror, and position 0 is not kept."""
    mirrored = torch.stack([x[..., 0::2], -x[..., 1::2]], -1).flatten(-2)
    return _turn(mirrored, _angles(x, offset, base))


@instead_of(rotary)
def rotary_along_the_wrong_axis(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Positions are counted along the axis of the heads, or of the batch. They are the axis before the last."""
    if x.ndim < 3:
        return rotary(x, offset, base)
    return rotary(x.transpose(-3, -2), offset, base).transpose(-3, -2)


@instead_of(rotary)
def rotary_takes_axis_one_of_four(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """With four axes axis 1 is taken for the positions, as in (batch, position, head, d_k). They are axis −2 always."""
    return rotary(x.transpose(1, 2), offset, base).transpose(1, 2) if x.ndim == 4 else rotary(x, offset, base)


@instead_of(rotary)
def rotary_turns_half_the_channels(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Only the first half of the channels is turned. All of them are, pair by pair."""
    half = x.shape[-1] // 4 * 2
    return torch.cat([_turn(x[..., :half], _angles(x[..., :half], offset, base)), x[..., half:]], -1)


@instead_of(rotary)
def rotary_adds_sinusoids(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Sines and cosines are added to the vector. Rotary multiplies by them: it turns, and keeps the norm."""
    table = sinusoidal_positions(offset + x.shape[-2], x.shape[-1], x.device, x.dtype)
    return x + table[offset:]


@instead_of(rotary)
def rotary_reads_what_it_has_written(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """The second channel is computed from the first one's new value, not from the old. Keep both before you write."""
    angles = _angles(x, offset, base)
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    first, second = x[..., 0::2], x[..., 1::2]
    first = first * cos - second * sin
    return torch.stack([first, first * sin + second * cos], -1).flatten(-2)


@instead_of(rotary)
def rotary_in_place(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """The rotated values are written into the caller's tensor. Make a new one."""
    return x.detach().copy_(rotary(x, offset, base).detach())


@instead_of(rotary)
def rotary_is_detached(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """The result is cut from the graph, so the projections of queries and keys never learn."""
    return rotary(x.detach(), offset, base)


@instead_of(rotary)
def rotary_in_float32(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """The result is float32, whatever went in. Turn it back into the input's dtype."""
    return rotary(x.float(), offset, base)


@instead_of(rotary)
def rotary_counts_in_the_inputs_dtype(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Positions are counted in the input's dtype, and bfloat16 does not know 1001. Compute angles in float32."""
    position = torch.arange(offset, offset + x.shape[-2], device=x.device).to(x.dtype)
    pair = torch.arange(x.shape[-1] // 2, device=x.device)
    return _turn(x, torch.outer(position, (base ** (-2.0 * pair / x.shape[-1])).to(x.dtype)))


@instead_of(rotary)
def rotary_on_the_cpu(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Angles are made on the CPU, whatever device the input is on. Pass `device=x.device`."""
    return rotary(x, offset, base) * torch.ones(x.shape[-2:], dtype=x.dtype)


def _alibi(slopes: Tensor, distance: Tensor, device: Device, dtype: Dtype) -> Tensor:
    return -einsum(slopes, distance.float(), "h q k -> h q k" if slopes.ndim > 1 else "h, q k -> h q k").to(
        device=device, dtype=dtype
    )


def _slopes(heads: int) -> Tensor:
    return 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)


def _back(length: int) -> Tensor:
    """How far each key stands behind each query."""
    return torch.arange(length)[:, None] - torch.arange(length)


@instead_of(alibi_bias)
def alibi_favours_far_keys(heads: int, length: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The sign is wrong: the bias grows with distance. Far keys must get less."""
    return -alibi_bias(heads, length, device, dtype)


@instead_of(alibi_bias)
def alibi_slopes_from_one(heads: int, length: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """Heads are counted from 0, so the first slope is 1. They count from 1: the first is 2^(−8/heads)."""
    return _alibi(2.0 ** (-8.0 * torch.arange(heads) / heads), _back(length).abs(), device, dtype)


@instead_of(alibi_bias)
def alibi_slopes_do_not_scale_with_heads(heads: int, length: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The slopes are 2^−h, which is right for 8 heads alone. They are 2^(−8h/heads)."""
    return _alibi(2.0 ** -torch.arange(1.0, heads + 1), _back(length).abs(), device, dtype)


@instead_of(alibi_bias)
def alibi_has_one_slope(heads: int, length: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """All heads have the same slope. Each has its own, so that some look near and others far."""
    return alibi_bias(heads, length, device, dtype)[:1].expand(heads, -1, -1)


@instead_of(alibi_bias)
def alibi_slopes_in_reverse(heads: int, length: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The first head has the smallest slope. It has the largest, 2^(−8/heads)."""
    return alibi_bias(heads, length, device, dtype).flip(0)


@instead_of(alibi_bias)
def alibi_squares_the_distance(heads: int, length: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The bias falls with the square of the distance. It falls linearly."""
    return _alibi(_slopes(heads), _back(length).square(), device, dtype)


@instead_of(alibi_bias)
def alibi_counts_distance_from_one(heads: int, length: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The distance to oneself is counted as 1. It is 0."""
    return _alibi(_slopes(heads), _back(length).abs() + 1, device, dtype)


@instead_of(alibi_bias)
def alibi_by_key_position(heads: int, length: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The bias depends on the key's position alone. It depends on the distance to the query."""
    return _alibi(_slopes(heads), torch.arange(length).expand(length, -1), device, dtype)


@instead_of(alibi_bias)
def alibi_grows_with_the_key(heads: int, length: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The bias is the slope times the key's number, the same row for all queries. It is minus the distance, zero at
    the query itself.
    """
    return -_alibi(_slopes(heads), torch.arange(length).expand(length, -1), device, dtype)


@instead_of(alibi_bias)
def alibi_from_the_last_position(heads: int, length: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The distance is that to the last position, the same row for all queries. Each query has its own."""
    return _alibi(_slopes(heads), torch.arange(length).flip(0).expand(length, -1), device, dtype)


@instead_of(alibi_bias)
def alibi_by_query_position(heads: int, length: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The bias is the same for all keys of a query, and the softmax takes it off again. It depends on the distance."""
    return _alibi(_slopes(heads), torch.arange(length)[:, None].expand(-1, length), device, dtype)


@instead_of(alibi_bias)
def alibi_has_a_signed_distance(heads: int, length: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The distance has a sign, so later keys get a bonus where no mask hides them. Take its absolute value."""
    return _alibi(_slopes(heads), _back(length), device, dtype)


@instead_of(alibi_bias)
def alibi_spares_the_past(heads: int, length: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The bias falls towards the future alone, which the mask hides, and is zero for all that is seen. Past keys get
    less, the farther the less.
    """
    return _alibi(_slopes(heads), (-_back(length)).clamp(min=0), device, dtype)


@instead_of(alibi_bias)
def alibi_in_float64(heads: int, length: int, device: Device = None, dtype: Dtype = None) -> Tensor:
    """The bias is float64 when no dtype is asked for. float32 is due."""
    return alibi_bias(heads, length, device, dtype or torch.float64)
