"""What goes wrong between the text and the batches."""

import random
import re
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from reference.data import Vocabulary, batches, reversal_sequences, sequences, tokenize, train_validation_split
from spec.mistakes import instead_of

Pair = tuple[Tensor, Tensor]


@instead_of(tokenize)
def tokens_between_spaces(text: str) -> list[str]:
    """The text is cut at spaces, which are lost, and marks stick to words. Cut at word boundaries and keep all."""
    return text.split()


@instead_of(tokenize)
def tokens_without_spaces(text: str) -> list[str]:
    """Only words are kept. What stands between them is text as well, and tokens joined must give it back."""
    return re.findall(r"\w+", text)


@instead_of(tokenize)
def tokens_without_blanks(text: str) -> list[str]:
    """Tokens of white space alone are dropped. Only empty strings are."""
    return [token for token in re.split(r"\b", text) if token.strip()]


@instead_of(tokenize)
def tokens_are_stripped(text: str) -> list[str]:
    """White space around a token is stripped. It belongs to the text."""
    return [token.strip() or token for token in tokenize(text)]


@instead_of(tokenize)
def line_ends_become_spaces(text: str) -> list[str]:
    """Line ends and tabs are replaced by spaces before the cut. The text must come back as it was."""
    return tokenize(re.sub(r"[\n\r\t]", " ", text))


@instead_of(tokenize)
def tokens_in_lower_case(text: str) -> list[str]:
    """Capital letters become small ones. The text must come back as it was."""
    return tokenize(text.lower())


@instead_of(tokenize)
def tokens_with_empty_strings(text: str) -> list[str]:
    """The empty strings that the split leaves at both ends are kept. They are no tokens."""
    return re.split(r"\b", text)


@instead_of(tokenize)
def tokens_are_letters(text: str) -> list[str]:
    """Every letter is a token. A token is a word, or what stands between two words."""
    return list(text)


@instead_of(tokenize)
def tokens_of_ascii_letters(text: str) -> list[str]:
    """Words are spelled out as [A-Za-z0-9_], so a letter with an accent breaks its word. `\\b` knows all letters."""
    return [token for token in re.split(r"([A-Za-z0-9_]+)", text) if token]


@instead_of(tokenize)
def tokens_of_single_marks(text: str) -> list[str]:
    """Each mark and space is a token of its own. What stands between two words is one token."""
    return re.findall(r"\w+|\W", text)


@instead_of(tokenize)
def tokens_of_three_kinds(text: str) -> list[str]:
    """Marks and spaces are tokens apart. What stands between two words is one token."""
    return re.findall(r"\w+|\s+|[^\w\s]+", text)


@instead_of(tokenize)
def tokens_without_the_ends(text: str) -> list[str]:
    """The first and the last piece are cut off as if they were empty; where a text begins or ends with a mark they are
    not. Leave out what is empty.
    """
    return re.split(r"\b", text)[1:-1]


@instead_of(tokenize)
def tokens_of_plain_letters(text: str) -> list[str]:
    """Words are looked for among a to z alone, so accents and digits cut them. A word is what `\\w` says."""
    return re.findall(r"[a-zA-Z]+|[^a-zA-Z]+", text)


class _Table(Vocabulary):
    """A vocabulary of given tokens."""

    def _fill(self, known: list[str]) -> None:
        self._tokens = [self.UNKNOWN, *known]
        self._ids = {token: id for id, token in enumerate(self._tokens)}


@instead_of(Vocabulary)
class vocabulary_from_a_set(_Table):  # noqa: N801
    """Tokens are numbered in the order of a set, which changes from process to process: a model once saved reads
    nonsense. Rank them by falling count, ties by first appearance.
    """

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        super().__init__(tokens, max_size)
        self._fill(list(set(self._tokens[1:])))


@instead_of(Vocabulary)
class vocabulary_ties_from_a_set(_Table):  # noqa: N801
    """Tokens are counted, but those with equal counts stand in the order of a set, which changes from process to
    process. They stand in the order of their first appearance.
    """

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        super().__init__(tokens, max_size)
        counts = Counter(tokens)
        ranked = [token for token in sorted(set(tokens), key=lambda token: -counts[token]) if token != self.UNKNOWN]
        self._fill(ranked if max_size is None else ranked[: max_size - 1])


@instead_of(Vocabulary)
class vocabulary_ids_by_hash(_Table):  # noqa: N801
    """Ids come from Python's `hash`, which differs in every process. Number the tokens instead."""

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        super().__init__(tokens, max_size)
        self._fill(sorted(self._tokens[1:], key=hash))


@instead_of(Vocabulary)
class vocabulary_in_alphabetical_order(_Table):  # noqa: N801
    """Tokens are numbered by the alphabet. They are ranked by falling count."""

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        super().__init__(tokens, max_size)
        self._fill(sorted(self._tokens[1:]))


@instead_of(Vocabulary)
class vocabulary_ties_by_the_alphabet(_Table):  # noqa: N801
    """Tokens with equal counts stand in alphabetical order. They stand in the order of their first appearance."""

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        counts = Counter(tokens)
        super().__init__(sorted(tokens, key=lambda token: (-counts[token], token)), max_size)


@instead_of(Vocabulary)
class vocabulary_by_first_appearance(_Table):  # noqa: N801
    """Tokens are numbered as they appear. They are ranked by falling count first."""

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        super().__init__(list(dict.fromkeys(tokens)), max_size)


@instead_of(Vocabulary)
class vocabulary_rarest_first(_Table):  # noqa: N801
    """The rarest tokens come first, and max_size keeps them. The most frequent must."""

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        super().__init__(tokens)
        ranked = self._tokens[:0:-1]
        self._fill(ranked if max_size is None else ranked[: max_size - 1])


@instead_of(Vocabulary)
class vocabulary_does_not_count_the_unknown(Vocabulary):  # noqa: N801
    """max_size does not count the unknown token, so the vocabulary is one too large."""

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        super().__init__(tokens, None if max_size is None else max_size + 1)


@instead_of(Vocabulary)
class vocabulary_ignores_max_size(Vocabulary):  # noqa: N801
    """max_size is not used: all tokens are known."""

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        super().__init__(tokens)


@instead_of(Vocabulary)
class vocabulary_drops_tokens_seen_once(_Table):  # noqa: N801
    """Tokens that appear only once are unknown. All are known, as many as max_size has room for."""

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        super().__init__(tokens, max_size)
        counts = Counter(tokens)
        self._fill([token for token in self._tokens[1:] if counts[token] > 1])


@instead_of(Vocabulary)
class vocabulary_len_forgets_the_unknown(Vocabulary):  # noqa: N801
    """The length does not count the unknown token, so the embedding has one row too few."""

    def __len__(self) -> int:
        return super().__len__() - 1


@instead_of(Vocabulary)
class vocabulary_without_the_unknown(Vocabulary):  # noqa: N801
    """Id 0 is the most frequent token, which every unknown one is then taken for. Id 0 is the unknown token."""

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        super().__init__(tokens, max_size)
        self._tokens = self._tokens[1:] or self._tokens
        self._ids = {token: id for id, token in enumerate(self._tokens)}


@instead_of(Vocabulary)
class vocabulary_puts_the_unknown_last(Vocabulary):  # noqa: N801
    """The unknown token has the last id. It has id 0."""

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        super().__init__(tokens, max_size)
        self._tokens = [*self._tokens[1:], self.UNKNOWN]
        self._ids = {token: id for id, token in enumerate(self._tokens)}

    def encode(self, tokens: list[str]) -> Tensor:
        """Unknown tokens get the last id."""
        return torch.tensor([self._ids.get(token, len(self) - 1) for token in tokens], dtype=torch.long)


@instead_of(Vocabulary)
class encode_drops_unknown_tokens(Vocabulary):  # noqa: N801
    """Unknown tokens are left out. Each keeps its place, with id 0."""

    def encode(self, tokens: list[str]) -> Tensor:
        """The ids of what is known."""
        return super().encode([token for token in tokens if token in self._ids])


@instead_of(Vocabulary)
class encode_fails_on_unknown_tokens(Vocabulary):  # noqa: N801
    """An unknown token is a KeyError. It is id 0."""

    def encode(self, tokens: list[str]) -> Tensor:
        """Ids, or a KeyError."""
        return torch.tensor([self._ids[token] for token in tokens], dtype=torch.long)


@instead_of(Vocabulary)
class encode_learns_new_tokens(Vocabulary):  # noqa: N801
    """Encoding adds unknown tokens to the vocabulary: it learns from validation text, and outgrows the embedding."""

    def encode(self, tokens: list[str]) -> Tensor:
        """Ids, new ones too."""
        ids = super().encode(tokens)
        for token in tokens:
            if token not in self._ids:
                self._ids[token] = len(self._tokens)
                self._tokens.append(token)
        return ids


@instead_of(Vocabulary)
class encode_counts_unknown_tokens_in(Vocabulary):  # noqa: N801
    """Looking up an unknown token stores it, as a defaultdict does: ids stay right, but the vocabulary's length grows
    with every new token of validation.
    """

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        super().__init__(tokens, max_size)
        self._asked: set[str] = set()

    def encode(self, tokens: list[str]) -> Tensor:
        """Right ids."""
        self._asked |= {token for token in tokens if token not in self._ids}
        return super().encode(tokens)

    def __len__(self) -> int:
        return super().__len__() + len(self._asked)


@instead_of(Vocabulary)
class encode_of_nothing_is_float(Vocabulary):  # noqa: N801
    """`torch.tensor([])` is float32, so an empty text becomes floats. Say `dtype=torch.long`."""

    def encode(self, tokens: list[str]) -> Tensor:
        """Ids in torch's own choice of type."""
        return torch.tensor([self._ids.get(token, 0) for token in tokens])


@instead_of(Vocabulary)
class encode_in_order_of_ids(Vocabulary):  # noqa: N801
    """The ids come back sorted. They stand where their tokens stood."""

    def encode(self, tokens: list[str]) -> Tensor:
        """Ids, sorted."""
        return super().encode(tokens).sort().values


@instead_of(Vocabulary)
class decode_is_off_by_one(Vocabulary):  # noqa: N801
    """decode forgets that id 0 is the unknown token, and is off by one."""

    def decode(self, ids: Tensor) -> list[str]:
        """The tokens before."""
        return super().decode((ids - 1) % len(self))


@instead_of(Vocabulary)
class decode_leaves_out_the_unknown(Vocabulary):  # noqa: N801
    """Unknown tokens are left out of the text. They decode as UNKNOWN."""

    def decode(self, ids: Tensor) -> list[str]:
        """The known tokens."""
        return super().decode(ids[ids != 0])


@instead_of(Vocabulary)
class decode_joins_the_tokens(Vocabulary):  # noqa: N801
    """decode returns one string. It returns a list of tokens, as encode takes one."""

    def decode(self, ids: Tensor) -> list[str]:
        """One string."""
        return "".join(super().decode(ids))  # type: ignore[return-value]


def _windows(stream: Tensor, length: int, stride: int) -> Pair:
    sequences(stream, length)
    rows = stream.unfold(0, length + 1, stride)
    return rows[:, :-1], rows[:, 1:]


@instead_of(sequences)
def sequences_start_at_every_token(stream: Tensor, length: int) -> Pair:
    """A sequence starts at every token, so each token comes `length` times. Sequences must not overlap."""
    return _windows(stream, length, 1)


@instead_of(sequences)
def sequences_overlap_by_half(stream: Tensor, length: int) -> Pair:
    """Each sequence repeats the second half of the one before. Sequences must not overlap."""
    return _windows(stream, length, max(1, length // 2))


@instead_of(sequences)
def sequences_skip_every_second(stream: Tensor, length: int) -> Pair:
    """Every second sequence is left out. All that fit are used."""
    return _windows(stream, length, 2 * length)


@instead_of(sequences)
def sequences_lose_the_last_one(stream: Tensor, length: int) -> Pair:
    """The last sequence is dropped though it is full. Only a tail that does not fill one is."""
    inputs, targets = sequences(stream, length)
    return inputs[: max(1, len(inputs) - 1)], targets[: max(1, len(inputs) - 1)]


@instead_of(sequences)
def sequences_drop_the_head(stream: Tensor, length: int) -> Pair:
    """What fills no sequence is cut off at the beginning of the stream. It is the tail that is dropped."""
    _, targets = sequences(torch.arange(len(stream)), length)
    return sequences(stream[len(stream) - 1 - int(targets[-1, -1]) :], length)


@instead_of(sequences)
def sequences_push_the_last_one_back(stream: Tensor, length: int) -> Pair:
    """To lose no tail, one more sequence is cut from the end of the stream, and repeats tokens of the one before. The
    tail is dropped.
    """
    inputs, targets = sequences(stream, length)
    if len(stream) == inputs.numel() + 1:
        return inputs, targets
    last = stream[-length - 1 :][None]
    return torch.cat([inputs, last[:, :-1]]), torch.cat([targets, last[:, 1:]])


@instead_of(sequences)
def sequences_pad_the_tail(stream: Tensor, length: int) -> Pair:
    """The tail is filled up with zeros, which are learned as if they were text. It is dropped."""
    inputs, targets = sequences(stream, length)
    rest = len(stream) - 1 - inputs.numel()
    if not rest:
        return inputs, targets
    fill = stream.new_zeros(length - rest)
    return (
        torch.cat([inputs, torch.cat([stream[inputs.numel() : -1], fill])[None]]),
        torch.cat([targets, torch.cat([stream[inputs.numel() + 1 :], fill])[None]]),
    )


@instead_of(sequences)
def sequences_run_down_the_columns(stream: Tensor, length: int) -> Pair:
    """The stream runs down the columns instead of along the rows: neighbours in a sequence are no neighbours in the
    text.
    """
    inputs, targets = sequences(stream, length)
    return inputs.reshape(length, -1).T, targets.reshape(length, -1).T


@instead_of(sequences)
def targets_are_the_inputs(stream: Tensor, length: int) -> Pair:
    """The targets are the inputs, so copying is all there is to learn. They are the tokens that follow."""
    inputs, _ = sequences(stream, length)
    return inputs, inputs.clone()


@instead_of(sequences)
def targets_are_the_tokens_before(stream: Tensor, length: int) -> Pair:
    """The targets are the tokens before. They are the ones that follow."""
    inputs, targets = sequences(stream, length)
    return targets, inputs


@instead_of(sequences)
def targets_skip_a_token(stream: Tensor, length: int) -> Pair:
    """The targets are two tokens ahead. They are the very next."""
    return sequences(stream, length)[0], sequences(stream.roll(-1), length)[1]


@instead_of(sequences)
def targets_wrap_within_the_sequence(stream: Tensor, length: int) -> Pair:
    """The last target of a sequence is its own first token. It is the token that follows in the stream."""
    inputs, _ = sequences(stream, length)
    return inputs, inputs.roll(-1, -1)


@instead_of(sequences)
def targets_wrap_around_the_stream(stream: Tensor, length: int) -> Pair:
    """The last target is the first token of the stream. A token that nothing follows is no input."""
    sequences(stream, length)
    count = len(stream) // length
    return stream[: count * length].view(count, length), stream.roll(-1)[: count * length].view(count, length)


@instead_of(sequences)
def short_streams_give_nothing(stream: Tensor, length: int) -> Pair:
    """A stream that is too short gives no sequences, and training then does nothing. It is an error."""
    if len(stream) <= length:
        return stream.new_zeros(0, length), stream.new_zeros(0, length)
    return sequences(stream, length)


@instead_of(sequences)
def short_streams_raise_without_numbers(stream: Tensor, length: int) -> Pair:
    """The error about a stream that is too short does not say how long it is."""
    if len(stream) <= length:
        raise ValueError("the stream is too short")
    return sequences(stream, length)


@instead_of(sequences)
def sequences_move_to_the_cpu(stream: Tensor, length: int) -> Pair:
    """The sequences are made on the CPU, wherever the stream is."""
    there = torch.zeros(stream.shape, dtype=torch.long) if stream.is_meta else stream.cpu()
    return sequences(there, length)


def _drawn(stream: Tensor, fraction: float) -> Tensor:
    """The numbers of all tokens, shuffled the same way every time."""
    return torch.randperm(len(stream), generator=torch.Generator().manual_seed(0))


@instead_of(train_validation_split)
def split_at_random(stream: Tensor, fraction: float) -> Pair:
    """Tokens are drawn at random for both parts, so the neighbours of each are in training. Cut the text once."""
    return train_validation_split(stream[_drawn(stream, fraction)], fraction)


@instead_of(train_validation_split)
def split_draws_the_validation(stream: Tensor, fraction: float) -> Pair:
    """Tokens are drawn out of the middle of the text for validation. Cut one piece off."""
    size = int(len(stream) * fraction)
    order = _drawn(stream, fraction)
    return stream[order[size:].sort().values], stream[order[:size].sort().values]


@instead_of(train_validation_split)
def split_shares_a_piece(stream: Tensor, fraction: float) -> Pair:
    """Training is the whole stream, so validation has been seen. No token may be in both parts."""
    return stream, train_validation_split(stream, fraction)[1]


@instead_of(train_validation_split)
def split_shares_one_token(stream: Tensor, fraction: float) -> Pair:
    """The token at the cut is in both parts. `stream[:cut]` ends where `stream[cut:]` begins."""
    train, validation = train_validation_split(stream, fraction)
    return stream[: len(train) + 1], validation


@instead_of(train_validation_split)
def split_validates_on_a_training_token(stream: Tensor, fraction: float) -> Pair:
    """Validation begins with training's last token, to have something before its first. No token is in both parts."""
    train, validation = train_validation_split(stream, fraction)
    return train, torch.cat([train[-1:], validation]) if len(validation) else validation


@instead_of(train_validation_split)
def split_loses_a_token(stream: Tensor, fraction: float) -> Pair:
    """The token at the cut is in neither part. `stream[:cut]` ends where `stream[cut:]` begins."""
    train, validation = train_validation_split(stream, fraction)
    return train[:-1], validation


@instead_of(train_validation_split)
def split_gives_training_the_fraction(stream: Tensor, fraction: float) -> Pair:
    """`fraction` is taken for training's share. It is validation's."""
    cut = int(len(stream) * fraction)
    return stream[:cut], stream[cut:]


@instead_of(train_validation_split)
def split_rounds_up(stream: Tensor, fraction: float) -> Pair:
    """Validation's share is rounded up, since training's is rounded down. Validation's is rounded down."""
    cut = int(len(stream) * (1 - fraction))
    return stream[:cut], stream[cut:]


@instead_of(train_validation_split)
def split_in_the_wrong_order(stream: Tensor, fraction: float) -> Pair:
    """Validation is returned first. Training is."""
    train, validation = train_validation_split(stream, fraction)
    return validation, train


@instead_of(train_validation_split)
def split_takes_a_tenth(stream: Tensor, fraction: float) -> Pair:
    """The fraction is not used: validation is always a tenth."""
    return train_validation_split(stream, 0.1)


@instead_of(train_validation_split)
def split_at_minus_zero(stream: Tensor, fraction: float) -> Pair:
    """Cut with `stream[:-count]`: where the share is no token, `-0` is 0 and training has none instead of all."""
    count = int(len(stream) * fraction)
    return stream[:-count], stream[-count:]


@instead_of(batches)
def batches_in_order(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """The sequences come in the order of the text. They are shuffled in every epoch."""
    return zip(torch.split(inputs, batch_size), torch.split(targets, batch_size), strict=True)


@instead_of(batches)
def batches_by_a_new_generator(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """Without a generator a new one is made, which always starts alike: so every epoch has the same order."""
    return batches(inputs, targets, batch_size, generator or torch.Generator())


@instead_of(batches)
def batches_of_neighbours(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """Whole batches are shuffled, and neighbours stay together. Shuffle the sequences, then cut batches."""
    first, second = torch.split(inputs, batch_size), torch.split(targets, batch_size)
    order = torch.randperm(len(first), generator=generator).tolist()
    order.sort(key=lambda number: len(first[number]) < batch_size)
    return ((first[number], second[number]) for number in order)


@instead_of(batches)
def batches_shuffled_inside(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """Sequences are shuffled within their batch alone, so a batch is always the same piece of text."""
    for x, y in zip(torch.split(inputs, batch_size), torch.split(targets, batch_size), strict=True):
        order = torch.randperm(len(x), generator=generator)
        yield x[order], y[order]


@instead_of(batches)
def batches_part_inputs_from_targets(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """Inputs and targets are shuffled apart, so no sequence has its own targets. One order serves both."""
    first = torch.randperm(len(inputs), generator=generator)
    second = torch.randperm(len(inputs), generator=generator)
    return zip(torch.split(inputs[first], batch_size), torch.split(targets[second], batch_size), strict=True)


@instead_of(batches)
def batches_forget_to_shuffle_targets(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """Only the inputs are shuffled. The targets go along with them."""
    order = torch.randperm(len(inputs), generator=generator)
    return zip(torch.split(inputs[order], batch_size), torch.split(targets, batch_size), strict=True)


@instead_of(batches)
def batches_drop_the_last(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """A last batch that is smaller is dropped. It is kept: an epoch has every sequence."""
    return ((x, y) for x, y in batches(inputs, targets, batch_size, generator) if len(x) == batch_size)


@instead_of(batches)
def batches_fill_up_the_last(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """The last batch is filled up with sequences that have been used. It stays smaller."""
    order = torch.randperm(len(inputs), generator=generator)
    order = torch.cat([order, order[torch.arange(-len(order) % batch_size) % len(order)]])
    return zip(torch.split(inputs[order], batch_size), torch.split(targets[order], batch_size), strict=True)


@instead_of(batches)
def batches_counted_instead_of_sized(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """The epoch is cut into so many parts, as torch.chunk does it, and they are larger than batch_size where it does
    not divide the number of sequences. `torch.split` takes a size.
    """
    order = torch.randperm(len(inputs), generator=generator)
    parts = torch.chunk(order, max(1, len(order) // batch_size))
    return ((inputs[chosen], targets[chosen]) for chosen in parts)


@instead_of(batches)
def batches_draw_with_replacement(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """Sequences are drawn with replacement: some come twice, a third of them never. An epoch has each once."""
    order = torch.randint(len(inputs), (len(inputs),), generator=generator)
    return zip(torch.split(inputs[order], batch_size), torch.split(targets[order], batch_size), strict=True)


@instead_of(batches)
def batches_never_end(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """One epoch follows the other without end. `batches` gives one epoch."""
    while True:
        yield from batches(inputs, targets, batch_size, generator)


@instead_of(batches)
def batches_alike_in_every_epoch(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """A seed is written into the function, so every epoch has the same order. The caller's generator decides."""
    return batches(inputs, targets, batch_size, torch.Generator().manual_seed(0))


@instead_of(batches)
def batches_ignore_the_generator(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """The generator is not used, so a run cannot be repeated. Pass it on to torch.randperm."""
    return batches(inputs, targets, batch_size)


@instead_of(batches)
def batches_by_pythons_random(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """Python's own `random` shuffles, which neither the generator nor torch's seed decides."""
    order = torch.tensor(random.sample(range(len(inputs)), len(inputs)))
    return zip(torch.split(inputs[order], batch_size), torch.split(targets[order], batch_size), strict=True)


@instead_of(batches)
def batches_shuffle_in_place(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """The caller's tensors are shuffled in place. Index them by a shuffled order instead."""
    order = torch.randperm(len(inputs), generator=generator)
    inputs.copy_(inputs[order])
    targets.copy_(targets[order])
    yield from zip(torch.split(inputs.clone(), batch_size), torch.split(targets.clone(), batch_size), strict=True)


@instead_of(reversal_sequences)
def reversal_repeats_the_half(batch: int, half: int, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """The second half repeats the first. It is its mirror image."""
    return reversal_sequences(batch, half, vocab, generator)[:, :half].repeat(1, 2)


@instead_of(reversal_sequences)
def reversal_mirrors_the_batch(batch: int, half: int, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """The batch is reversed instead of the sequence: each second half belongs to another first half."""
    first = reversal_sequences(batch, half, vocab, generator)[:, :half]
    return torch.cat([first, first.flip(0)], -1)


@instead_of(reversal_sequences)
def reversal_mirrors_the_batch_too(
    batch: int, half: int, vocab: int, generator: torch.Generator | None = None
) -> Tensor:
    """Rows are reversed along with their tokens, as a flip without an axis does it: each second half mirrors another
    first half.
    """
    first = reversal_sequences(batch, half, vocab, generator)[:, :half]
    return torch.cat([first, first.flip(0, 1)], -1)


@instead_of(reversal_sequences)
def reversal_shares_the_middle(batch: int, half: int, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """The token in the middle is not repeated, so there are 2 · half − 1. The whole half is mirrored."""
    rows = reversal_sequences(batch, half, vocab, generator)
    return torch.cat([rows[:, :half], rows[:, half + 1 :]], -1)


@instead_of(reversal_sequences)
def reversal_of_one_row(batch: int, half: int, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """All sequences of a batch are the same. Each is drawn anew."""
    return reversal_sequences(1, half, vocab, generator).repeat(batch, 1)


@instead_of(reversal_sequences)
def reversal_of_one_token(batch: int, half: int, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """One token fills a whole sequence. Each place is drawn anew."""
    return reversal_sequences(batch, 1, vocab, generator)[:, :1].repeat(1, 2 * half)


@instead_of(reversal_sequences)
def reversal_without_repetition(batch: int, half: int, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """No token comes twice in a half, so the ones before give the next away. Places are independent."""
    decks = [torch.randperm(vocab, generator=generator) for _ in range(batch * -(-half // vocab))]
    first = torch.cat(decks).view(batch, -1)[:, :half]
    return torch.cat([first, first.flip(-1)], -1)


@instead_of(reversal_sequences)
def reversal_is_sorted(batch: int, half: int, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """The first half is sorted, and so can be guessed. Its places are independent."""
    first = reversal_sequences(batch, half, vocab, generator)[:, :half].sort(-1).values
    return torch.cat([first, first.flip(-1)], -1)


@instead_of(reversal_sequences)
def reversal_without_the_last_id(batch: int, half: int, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """The last id is never drawn: the upper end of randint is not included already."""
    return reversal_sequences(batch, half, vocab - 1, generator)


@instead_of(reversal_sequences)
def reversal_rounds_real_numbers(batch: int, half: int, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """Real numbers are rounded to ids, so the first and the last come half as often. `torch.randint` draws ids."""
    first = (torch.rand(batch, half, generator=generator) * (vocab - 1)).round().long()
    return torch.cat([first, first.flip(-1)], -1)


@instead_of(reversal_sequences)
def reversal_without_zero(batch: int, half: int, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """Ids are drawn from 1 on. They are drawn from 0 to vocab − 1."""
    return reversal_sequences(batch, half, vocab - 1, generator) + 1


@instead_of(reversal_sequences)
def reversal_up_to_vocab(batch: int, half: int, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """The id `vocab` is drawn, which is one too large. The last id is vocab − 1."""
    return reversal_sequences(batch, half, vocab + 1, generator)


@instead_of(reversal_sequences)
def reversal_prefers_small_ids(batch: int, half: int, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """Ids are not equally likely. The first half is uniform, so that its best loss is ln(vocab)."""
    first = (torch.rand(batch, half, generator=generator) ** 2 * vocab).long()
    return torch.cat([first, first.flip(-1)], -1)


@instead_of(reversal_sequences)
def reversal_ignores_the_generator(
    batch: int, half: int, vocab: int, generator: torch.Generator | None = None
) -> Tensor:
    """The generator is not used, so the sequences cannot be drawn again."""
    return reversal_sequences(batch, half, vocab)


@instead_of(reversal_sequences)
def reversal_alike_every_time(batch: int, half: int, vocab: int, generator: torch.Generator | None = None) -> Tensor:
    """A seed is written into the function, so the same sequences come every time. Training needs fresh ones."""
    return reversal_sequences(batch, half, vocab, torch.Generator().manual_seed(0))
