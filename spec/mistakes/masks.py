"""What goes wrong with masks."""

import torch
from einops import rearrange
from torch import Tensor

from reference.masks import causal_mask, padding_mask, window_mask
from spec.mistakes import instead_of

Device = torch.device | str | None


def _all(queries: int, keys: int | None, device: Device) -> Tensor:
    return torch.ones(queries, queries if keys is None else keys, dtype=torch.bool, device=device)


def _back(length: int, device: Device) -> Tensor:
    """How far each key stands behind each query."""
    position = torch.arange(length, device=device)
    return position[:, None] - position


@instead_of(causal_mask)
def causal_mask_hides_nothing(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """Everything is visible, the future too. Only the position itself and those before it may be."""
    return _all(queries, keys, device)


@instead_of(causal_mask)
def causal_mask_upside_down(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """True hides here, as in nn.MultiheadAttention. In this house True means 'may look'."""
    return ~causal_mask(queries, keys, device)


@instead_of(causal_mask)
def causal_mask_shows_the_future(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """The upper triangle is visible: positions see themselves and what comes after. Take the lower one."""
    mask = _all(queries, keys, device)
    return mask.triu(mask.shape[1] - queries)


@instead_of(causal_mask)
def causal_mask_hides_the_position_itself(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """The diagonal is hidden: a position does not see itself. It must, as it predicts what comes after it."""
    mask = _all(queries, keys, device)
    return mask.tril(mask.shape[1] - queries - 1)


@instead_of(causal_mask)
def causal_mask_hides_itself_but_for_the_first(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """The diagonal is hidden but for the first position, which would see nothing else. Every position sees itself."""
    mask = causal_mask_hides_the_position_itself(queries, keys, device)
    return mask | (torch.arange(mask.shape[1], device=device) == 0) & ~mask.any(-1, keepdim=True)


@instead_of(causal_mask)
def causal_mask_shows_the_next_token(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """One future token is visible, which is the very one to predict. The diagonal is the last that may be seen."""
    mask = _all(queries, keys, device)
    return mask.tril(mask.shape[1] - queries + 1)


@instead_of(causal_mask)
def causal_mask_shows_the_first_token_to_nobody(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """The first key is hidden. It is visible to every position."""
    mask = causal_mask(queries, keys, device)
    return mask & (torch.arange(mask.shape[1], device=device) > 0)


@instead_of(causal_mask)
def causal_mask_shows_the_previous_token_alone(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """Only the position itself and the one before are visible. All that come before are."""
    mask = causal_mask(queries, keys, device)
    return mask & mask.triu(mask.shape[1] - queries - 1)


@instead_of(causal_mask)
def causal_mask_aligned_at_the_start(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """With more keys than queries, the queries are taken for the first positions. They are the last ones."""
    return _all(queries, keys, device).tril()


@instead_of(causal_mask)
def causal_diagonal_moves_the_other_way(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """With more keys than queries the diagonal is moved by queries − keys, the wrong way. It is keys − queries."""
    everything = _all(queries, keys, device)
    return everything.tril(queries - everything.shape[1])


@instead_of(causal_mask)
def causal_mask_forgets_the_keys(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """The number of keys is not used: the mask is always square."""
    return causal_mask(queries, None, device)


@instead_of(causal_mask)
def causal_mask_shows_all_to_a_remembering_decoder(
    queries: int, keys: int | None = None, device: Device = None
) -> Tensor:
    """With more keys than queries everything is visible. Among several new positions the later stay hidden."""
    return causal_mask(queries, None, device) if keys in (None, queries) else _all(queries, keys, device)


@instead_of(causal_mask)
def causal_mask_shows_the_next_token_after_a_past(
    queries: int, keys: int | None = None, device: Device = None
) -> Tensor:
    """Where `keys` is given, a query sees the token after it too. The diagonal is keys − queries, and not one more."""
    mask = _all(queries, keys, device)
    return mask.tril(0 if keys is None else keys - queries + 1)


@instead_of(causal_mask)
def causal_mask_of_a_fixed_size(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """The mask has the size of the longest sequence, and is not cut to the one at hand."""
    return causal_mask(32, 32, device)


@instead_of(causal_mask)
def causal_mask_of_floats(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """The mask holds 0 and −∞, to be added to scores. It must hold True and False."""
    mask = causal_mask(queries, keys, device)
    return torch.zeros(mask.shape, device=device).masked_fill(~mask, -torch.inf)


@instead_of(causal_mask)
def causal_mask_of_ones_and_zeros(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """The mask holds the numbers 1 and 0. It must hold True and False, or `~mask` and indexing mean something else."""
    return causal_mask(queries, keys, device).float()


@instead_of(causal_mask)
def causal_mask_always_on_the_cpu(queries: int, keys: int | None = None, device: Device = None) -> Tensor:
    """The causal mask is made on the CPU, whatever device is asked for."""
    return causal_mask(queries, keys)


@instead_of(padding_mask)
def padding_mask_upside_down(tokens: Tensor, pad: int) -> Tensor:
    """Padding is visible and the tokens are hidden, as torch's `key_padding_mask` has it. True means 'may look'."""
    return ~padding_mask(tokens, pad)


@instead_of(padding_mask)
def padding_mask_hides_nothing(tokens: Tensor, pad: int) -> Tensor:
    """Padding is visible: the mask is True everywhere."""
    return torch.ones_like(padding_mask(tokens, pad))


@instead_of(padding_mask)
def padding_mask_on_the_query_axis(tokens: Tensor, pad: int) -> Tensor:
    """Padding is hidden as a query. It must be hidden as a key: nobody looks at it, whatever it looks at itself."""
    return rearrange(padding_mask(tokens, pad), "batch 1 key -> batch key 1")


@instead_of(padding_mask)
def padding_mask_without_a_query_axis(tokens: Tensor, pad: int) -> Tensor:
    """The mask is (batch, key), so with (query, key) its batch is read as queries. It needs a query axis of size 1."""
    return tokens != pad


@instead_of(padding_mask)
def padding_mask_takes_zero_for_padding(tokens: Tensor, pad: int) -> Tensor:
    """Token 0 is taken for padding. Which token is padding is told by `pad`."""
    return padding_mask(tokens, 0)


@instead_of(padding_mask)
def padding_mask_hides_smaller_ids(tokens: Tensor, pad: int) -> Tensor:
    """Every id up to `pad` is hidden. Only the one that equals it is padding."""
    return (tokens > pad)[:, None, :]


@instead_of(padding_mask)
def padding_mask_of_the_first_sequence(tokens: Tensor, pad: int) -> Tensor:
    """The first sequence's padding is hidden in the whole batch. Each sequence has its own."""
    return padding_mask(tokens, pad)[:1].expand(tokens.shape[0], -1, -1)


@instead_of(padding_mask)
def padding_mask_counts_from_the_left(tokens: Tensor, pad: int) -> Tensor:
    """Tokens are counted, and as many keys are shown from the left. Padding may stand on the left as well."""
    count = (tokens != pad).sum(-1, keepdim=True)
    return (torch.arange(tokens.shape[1], device=tokens.device) < count)[:, None, :]


@instead_of(padding_mask)
def padding_mask_writes_into_the_tokens(tokens: Tensor, pad: int) -> Tensor:
    """Padding is replaced by 0 in the caller's tokens. Compare them; do not write."""
    mask = padding_mask(tokens, pad)
    tokens.masked_fill_(tokens == pad, 0)
    return mask


@instead_of(padding_mask)
def padding_mask_on_the_cpu(tokens: Tensor, pad: int) -> Tensor:
    """The mask is made on the CPU, whatever device the tokens are on."""
    return padding_mask(torch.zeros(tokens.shape, dtype=torch.long) if tokens.is_meta else tokens.cpu(), pad)


@instead_of(window_mask)
def window_one_too_wide(length: int, window: int, device: Device = None) -> Tensor:
    """The window does not count the position itself, so it sees window + 1 positions. The position itself counts."""
    return window_mask(length, window + 1, device)


@instead_of(window_mask)
def window_one_too_narrow(length: int, window: int, device: Device = None) -> Tensor:
    """The window is one position short."""
    return window_mask(length, max(window - 1, 1), device)


@instead_of(window_mask)
def window_is_halved(length: int, window: int, device: Device = None) -> Tensor:
    """Half of the window is taken off, as for one that looks both ways. It looks back alone: all of it lies there."""
    return window_mask(length, window // 2 + 1, device)


@instead_of(window_mask)
def window_without_the_position_itself(length: int, window: int, device: Device = None) -> Tensor:
    """The window ends before the position itself. It is included, as the last of the window."""
    back = _back(length, device)
    return (back > 0) & (back <= window)


@instead_of(window_mask)
def window_to_both_sides(length: int, window: int, device: Device = None) -> Tensor:
    """The window looks ahead as well as back. It is causal: it looks back alone."""
    return _back(length, device).abs() < window


@instead_of(window_mask)
def window_hides_only_the_far_past(length: int, window: int, device: Device = None) -> Tensor:
    """The past beyond the window is hidden, but the future is not."""
    return _back(length, device) < window


@instead_of(window_mask)
def window_is_ignored(length: int, window: int, device: Device = None) -> Tensor:
    """The window is not used: all positions before are visible."""
    return causal_mask(length, device=device)


@instead_of(window_mask)
def window_cut_into_blocks(length: int, window: int, device: Device = None) -> Tensor:
    """The text is cut into blocks, and a position sees its own block. The window moves along with the position."""
    block = torch.arange(length, device=device) // window
    return (block[:, None] == block) & causal_mask(length, device=device)


@instead_of(window_mask)
def window_of_the_oldest(length: int, window: int, device: Device = None) -> Tensor:
    """The first `window` keys are visible. The last ones are, up to the position itself."""
    return causal_mask(length, device=device) & (torch.arange(length, device=device) < window)


@instead_of(window_mask)
def window_wraps_around(length: int, window: int, device: Device = None) -> Tensor:
    """The first positions see the end of the text, where negative indices lead. The window is cut off at position 0."""
    return _back(length, device) % length < window


@instead_of(window_mask)
def window_is_empty_at_the_start(length: int, window: int, device: Device = None) -> Tensor:
    """The first rows are empty: where i − window + 1 is negative, a slice counts it from the end. Use `max(0, …)`."""
    mask = torch.zeros(length, length, dtype=torch.bool, device=device)
    for i in range(length):
        mask[i, i - window + 1 : i + 1] = True
    return mask


@instead_of(window_mask)
def window_mask_of_floats(length: int, window: int, device: Device = None) -> Tensor:
    """The window holds 0 and −∞, to be added to scores. It must hold True and False."""
    mask = window_mask(length, window, device)
    return torch.zeros(mask.shape, device=device).masked_fill(~mask, -torch.inf)


@instead_of(window_mask)
def window_mask_always_on_the_cpu(length: int, window: int, device: Device = None) -> Tensor:
    """The window is made on the CPU, whatever device is asked for."""
    return window_mask(length, window)
