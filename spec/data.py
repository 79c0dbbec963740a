r"""# Data

Text becomes tokens (cut at word boundaries), tokens become ids (a vocabulary), ids become sequences that do not
overlap, and sequences become shuffled batches. The target of every token is the one that follows it:

    tokenize(text) = re.split(r"\b", text) without empty strings,  targets[t] = stream[t + 1]

Source: the Deep Learning Curriculum, chapter 1; Karpathy, Let's build GPT.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from spec.kit.close import assert_close
from spec.kit.draw import axis, for_all, generator, tokens
from spec.kit.marks import rejects, robust
from spec.kit.probe import refuses


class VocabularyCalls(Protocol):
    """What a vocabulary does."""

    UNKNOWN: str

    def __len__(self) -> int: ...

    def encode(self, tokens: list[str]) -> Int[Tensor, "position"]:
        """Tokens to ids; 0 for those that are unknown."""
        ...

    def decode(self, ids: Int[Tensor, "position"]) -> list[str]:
        """Ids to tokens; UNKNOWN for 0."""
        ...


class Data(Protocol):
    """What an implementation of this chapter offers."""

    def tokenize(self, text: str) -> list[str]:
        """Words, and what stands between them."""
        ...

    def Vocabulary(self, tokens: list[str], max_size: int | None = None) -> VocabularyCalls:
        """The known tokens by falling count, the unknown token first."""
        ...

    def sequences(
        self, stream: Int[Tensor, "stream"], length: int
    ) -> tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]:
        """Inputs that do not overlap, and their targets."""
        ...

    def train_validation_split(
        self, stream: Int[Tensor, "stream"], fraction: float
    ) -> tuple[Int[Tensor, "train"], Int[Tensor, "validation"]]:
        """Two pieces of the stream."""
        ...

    def batches(
        self,
        inputs: Int[Tensor, "sequence position"],
        targets: Int[Tensor, "sequence position"],
        batch_size: int,
        generator: torch.Generator | None = None,
    ) -> Iterator[tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]]:
        """An epoch in random order."""
        ...

    def reversal_sequences(
        self, batch: int, half: int, vocab: int, generator: torch.Generator | None = None
    ) -> Int[Tensor, "batch position"]:
        """A random half and its mirror image."""
        ...


Batches = Callable[..., Iterator[tuple[Tensor, Tensor]]]

TEXTS = [
    "To be, or not to be: that is the question.",
    "'Tis  nobler\tin the mind\nto suffer;\n\n  EXEUNT. ",
    "naïve_café costs 10,5 € – or 0x1F…",
    "?!... --",
    "word",
    "",
]


def _words(count: int, below: int, key: object = "") -> list[str]:
    """A text of words w0 … of which some come often."""
    return [f"w{int(number)}" for number in tokens(below, count, 2, key=key).amin(-1)]


def _table(count: int, length: int) -> tuple[Tensor, Tensor]:
    """Inputs that are all different, and targets that follow each of them."""
    inputs = torch.arange(count * length).reshape(count, length)
    return inputs, inputs + 1


def _epoch(
    batches: Batches, inputs: Tensor, targets: Tensor, batch_size: int, source: torch.Generator | None
) -> list[tuple[Tensor, Tensor]]:
    """All batches; a few more than there can be, where an epoch does not end."""
    return list(islice(batches(inputs, targets, batch_size, generator=source), len(inputs) + 3))


def _seen(batches: Batches, inputs: Tensor, batch_size: int, source: torch.Generator | None) -> Tensor:
    """The inputs that an epoch brings, one below the other."""
    return torch.cat([inputs[:0], *(x for x, _ in _epoch(batches, inputs, inputs + 1, batch_size, source))])


def _order(batches: Batches, count: int, batch_size: int, source: torch.Generator | None) -> Tensor:
    """The numbers of the sequences in the order in which an epoch brings them."""
    return _seen(batches, torch.arange(count)[:, None], batch_size, source)[:, 0]


@rejects(
    "tokens_between_spaces",
    "tokens_without_spaces",
    "tokens_without_blanks",
    "tokens_are_stripped",
    "tokens_in_lower_case",
    "tokens_without_the_ends",
    "line_ends_become_spaces",
)
@for_all(text=TEXTS)
def test_tokens_join_back_to_the_text(impl: Data, text: str) -> None:
    """The tokens of a text, joined, are that text again.

    Spaces, line breaks and marks are tokens too: a model that is to write text has to write them.

    Source: the Deep Learning Curriculum, chapter 1.

    Hint: nothing is stripped, lowered or dropped but empty strings.
    """
    assert "".join(impl.tokenize(text)) == text


@rejects(
    "tokens_between_spaces",
    "tokens_without_spaces",
    "tokens_without_blanks",
    "tokens_are_stripped",
    "tokens_in_lower_case",
    "tokens_with_empty_strings",
    "tokens_are_letters",
    "tokens_of_single_marks",
    "tokens_of_plain_letters",
    "tokens_of_ascii_letters",
    "tokens_of_three_kinds",
)
@for_all(text=TEXTS)
def test_text_is_cut_at_word_boundaries(impl: Data, text: str) -> None:
    r"""A token is a word, or all that stands between two words.

    The curriculum's rule is `re.split(r"\b", text)`; its empty strings at both ends are no tokens.

    Source: the Deep Learning Curriculum, chapter 1.

    Hint: `[token for token in re.split(r"\b", text) if token]`
    """
    assert impl.tokenize(text) == [token for token in re.split(r"\b", text) if token]


@rejects(
    "vocabulary_drops_tokens_seen_once",
    "vocabulary_len_forgets_the_unknown",
    "encode_in_order_of_ids",
    "decode_is_off_by_one",
    "decode_joins_the_tokens",
)
@for_all(count=[1, 5, 30], below=[1, 4, 9])
def test_known_tokens_come_back(impl: Data, count: int, below: int) -> None:
    """Tokens that the vocabulary was built on are known, and the same after encode and decode.

    Whatever a model reads and writes goes through these two.

    Hint: one table from token to id, and its inverse.
    """
    text = _words(count, below)
    vocabulary = impl.Vocabulary(text)
    ids = vocabulary.encode(text)
    assert (ids != 0).all()
    assert vocabulary.decode(ids) == text


@rejects(
    "vocabulary_drops_tokens_seen_once",
    "vocabulary_len_forgets_the_unknown",
    "vocabulary_without_the_unknown",
    "decode_is_off_by_one",
    "decode_leaves_out_the_unknown",
)
@for_all(count=[0, 1, 5, 30], below=[4, 9])
def test_every_id_stands_for_one_token(impl: Data, count: int, below: int) -> None:
    """The ids 0 to len − 1 decode to different tokens, and encode back to themselves.

    A vocabulary is one to one: as many ids as tokens, none left out, none used twice.

    Hint: `len` counts the unknown token too.
    """
    text = _words(count, below)
    vocabulary = impl.Vocabulary(text)
    ids = torch.arange(len(vocabulary))
    assert len(vocabulary) == len(set(text)) + 1
    assert len(set(vocabulary.decode(ids))) == len(ids)
    assert_close(vocabulary.encode(vocabulary.decode(ids)).long(), ids)


@rejects(
    "vocabulary_rarest_first",
    "vocabulary_without_the_unknown",
    "vocabulary_puts_the_unknown_last",
    "encode_drops_unknown_tokens",
    "encode_fails_on_unknown_tokens",
    "encode_in_order_of_ids",
    "decode_leaves_out_the_unknown",
)
@for_all(count=[0, 3, 20], places=[[0], [2], [1, 4]], max_size=[None, 2])
def test_unknown_tokens_have_id_zero(impl: Data, count: int, places: list[int], max_size: int | None) -> None:
    """A token that the vocabulary has not seen gets id 0, and id 0 decodes as UNKNOWN.

    Every token keeps its place: a text that loses its unknown words is another text.

    Hint: `ids.get(token, 0)`
    """
    vocabulary = impl.Vocabulary(["known"] * 21 + _words(count, 4), max_size=max_size)
    text = ["known"] * 5
    for place in places:
        text[place] = "never seen"
    ids = vocabulary.encode(text)
    unknown = torch.tensor([place in places for place in range(5)])
    assert_close(ids == 0, unknown)
    assert [token == vocabulary.UNKNOWN for token in vocabulary.decode(ids)] == unknown.tolist()


@rejects("vocabulary_in_alphabetical_order", "vocabulary_by_first_appearance", "vocabulary_rarest_first")
@for_all(count=[5, 30, 60], below=[4, 9, 20])
def test_frequent_tokens_come_first(impl: Data, count: int, below: int) -> None:
    """Ids from 1 on follow falling counts.

    So a smaller vocabulary keeps the tokens that matter most, and its ids are the first of the larger one.

    Hint: `Counter(tokens).most_common()`
    """
    text = _words(count, below)
    vocabulary = impl.Vocabulary(text)
    ranked = vocabulary.decode(torch.arange(1, len(vocabulary)))
    counts = [Counter(text)[token] for token in ranked]
    assert counts == sorted(Counter(text).values(), reverse=True)


@rejects("vocabulary_ties_by_the_alphabet", "vocabulary_by_first_appearance")
@for_all(count=[5, 30, 60], below=[4, 9, 20])
def test_ties_keep_the_order_of_appearance(impl: Data, count: int, below: int) -> None:
    """Tokens with equal counts stand in the order in which they first appeared.

    A rule for ties makes the ids a function of the text alone.

    Hint: dict and Counter keep the order of insertion, and sorting is stable; a set has no order.
    """
    text = _words(count, below, "ties")
    ranked = sorted(dict.fromkeys(text), key=lambda token: -text.count(token))
    vocabulary = impl.Vocabulary(text)
    assert vocabulary.decode(torch.arange(1, len(vocabulary))) == ranked


@rejects("vocabulary_from_a_set", "vocabulary_ties_from_a_set", "vocabulary_ids_by_hash")
@for_all(below=[40, 60], repeat=[1, 3], examples=4)
def test_ids_are_the_same_in_every_process(impl: Data, below: int, repeat: int) -> None:
    """Ids depend on how often and where words stand, not on how they are spelled.

    Python hashes strings anew in every process. Whoever numbers words in the order of a set (or by `hash`) gets other
    ids tomorrow, and a saved model reads nonsense. Renaming all words gives them other hashes too, so it shows this at
    once: the ids have to stay.

    Hint: `dict.fromkeys(tokens)` instead of `set(tokens)`.
    """
    places = [int(number) for number in torch.randperm(below, generator=generator("places"))] * repeat
    first, *others = ([f"{name}{place:02}" for place in places] for name in ("a", "word ", "ü"))
    ids = impl.Vocabulary(first).encode(first)
    for text in others:
        assert_close(impl.Vocabulary(text).encode(text), ids)


@rejects("vocabulary_in_alphabetical_order", "vocabulary_does_not_count_the_unknown", "vocabulary_ignores_max_size")
@for_all(count=[5, 40], below=[6, 12], max_size=[1, 2, 4, 100])
def test_max_size_keeps_the_most_frequent(impl: Data, count: int, below: int, max_size: int) -> None:
    """A vocabulary of max_size holds the unknown token and the max_size − 1 most frequent others.

    Rare words are most of a vocabulary and least of a text. What is cut off is unknown.

    Hint: `most_common(max_size - 1)`
    """
    text = _words(count, below)
    whole, small = impl.Vocabulary(text), impl.Vocabulary(text, max_size=max_size)
    assert len(small) == min(max_size, len(set(text)) + 1)
    ids = whole.encode(text)
    assert_close(small.encode(text), ids * (ids < max_size))


@rejects(
    "vocabulary_puts_the_unknown_last",
    "encode_drops_unknown_tokens",
    "encode_fails_on_unknown_tokens",
    "encode_learns_new_tokens",
    "encode_counts_unknown_tokens_in",
)
@for_all(count=[3, 10], below=[4, 9])
def test_the_vocabulary_knows_the_training_part_alone(impl: Data, count: int, below: int) -> None:
    """What a vocabulary was not built on stays unknown, however often it is encoded.

    It is built on the training part. A vocabulary that learns from validation text has looked at the answers, and ids
    that grow later find no row in the embedding.

    Hint: encode looks up and adds nothing; a defaultdict grows by looking.
    """
    text = _words(count, below)
    vocabulary = impl.Vocabulary(text)
    size = len(vocabulary)
    assert_close(vocabulary.encode(["only in validation"] * 3 + text[:1])[:3].long(), torch.zeros(3, dtype=torch.long))
    assert_close(vocabulary.encode(["only in validation"]).long(), torch.zeros(1, dtype=torch.long))
    assert len(vocabulary) == size


@rejects(
    "targets_are_the_inputs",
    "targets_are_the_tokens_before",
    "targets_skip_a_token",
    "targets_wrap_within_the_sequence",
    "targets_wrap_around_the_stream",
)
@for_all(size=[7, 12, 30, 31], length=[1, 3, 6])
def test_targets_are_the_tokens_that_follow(impl: Data, size: int, length: int) -> None:
    """The target of each token is the one that follows it in the stream.

    A language model predicts the next token, at every position of a sequence at once.

    Source: the Deep Learning Curriculum, chapter 1.

    Hint: `stream[:-1]` and `stream[1:]`, cut alike.
    """
    stream = torch.arange(100, 100 + size)
    inputs, targets = impl.sequences(stream, length)
    assert_close(targets, inputs + 1)


@rejects(
    "sequences_pad_the_tail",
    "sequences_run_down_the_columns",
    "targets_skip_a_token",
    "targets_wrap_within_the_sequence",
    "targets_wrap_around_the_stream",
)
@for_all(size=[7, 12, 30, 31], length=[1, 3, 6])
def test_sequences_are_pieces_of_the_stream(impl: Data, size: int, length: int) -> None:
    """Each sequence is `length` neighbouring tokens of the stream, and nothing else.

    The tail that does not fill a sequence is dropped: padding that looks like a token would be learned.

    Hint: rows of a reshaped stream, not its columns.
    """
    stream = tokens(50, size)
    pieces = stream.unfold(0, length, 1)
    for rows in impl.sequences(stream, length):
        assert rows.shape[1] == length
        assert (rows[:, None] == pieces).all(-1).any(-1).all()


@rejects(
    "sequences_start_at_every_token",
    "sequences_overlap_by_half",
    "sequences_pad_the_tail",
    "sequences_push_the_last_one_back",
)
@for_all(size=[7, 12, 30, 31], length=[1, 3, 6])
def test_sequences_do_not_overlap(impl: Data, size: int, length: int) -> None:
    """No position of the stream is an input twice, and none is a target twice.

    Overlapping sequences show the same tokens over and over in one epoch; split at random afterwards, they put the
    validation text into the training.

    Source: the Deep Learning Curriculum, chapter 1.

    Hint: the next sequence starts `length` (or `length + 1`) later.
    """
    for rows in impl.sequences(torch.arange(size), length):
        assert len(set(rows.flatten().tolist())) == rows.numel()


@rejects(
    "sequences_start_at_every_token",
    "sequences_overlap_by_half",
    "sequences_skip_every_second",
    "sequences_lose_the_last_one",
    "sequences_drop_the_head",
)
@for_all(size=[7, 12, 13, 14, 31], length=[1, 3, 6])
def test_sequences_use_the_whole_stream(impl: Data, size: int, length: int) -> None:
    """There are as many sequences as fit into the stream, from its first token on.

    Only the tail is lost. Both strides are right: `length`, where the last target is the next sequence's first input,
    and `length + 1`.

    Hint: (size − 1) // length sequences, or size // (length + 1).
    """
    inputs, targets = impl.sequences(torch.arange(size), length)
    assert len(inputs) == len(targets)
    assert inputs.min().item() == 0
    assert len(inputs) in {(size - 1) // length, size // (length + 1)}


@rejects("targets_are_the_inputs", "targets_are_the_tokens_before", "short_streams_give_nothing")
@for_all(length=[1, 3, 6])
def test_short_streams_are_an_error(impl: Data, length: int) -> None:
    """A stream of length + 1 tokens gives one sequence; a shorter one is an error.

    No sequences at all would make a training loop that does nothing, and says nothing.

    Hint: compare `len(stream)` with `length + 1`, and raise a ValueError that names both.
    """
    inputs, targets = impl.sequences(torch.arange(length + 1), length)
    assert_close((inputs, targets), (torch.arange(length)[None], torch.arange(1, length + 1)[None]))
    assert refuses(lambda: impl.sequences(torch.arange(length), length))


@rejects(
    "split_shares_a_piece",
    "split_shares_one_token",
    "split_loses_a_token",
    "split_gives_training_the_fraction",
    "split_rounds_up",
    "split_in_the_wrong_order",
    "split_takes_a_tenth",
    "split_validates_on_a_training_token",
)
@for_all(size=[8, 10, 21, 99], fraction=[0.125, 0.25, 0.5])
def test_validation_has_its_share(impl: Data, size: int, fraction: float) -> None:
    """The validation part is `fraction` of the stream, rounded down; training has the rest.

    A tenth is usual: enough to measure by, little enough to miss.

    Hint: `int(len(stream) * fraction)`
    """
    train, validation = impl.train_validation_split(torch.arange(size), fraction)
    assert (len(train), len(validation)) == (size - int(size * fraction), int(size * fraction))


@rejects("split_shares_a_piece", "split_shares_one_token", "split_loses_a_token", "split_validates_on_a_training_token")
@for_all(size=[8, 10, 21, 99], fraction=[0.125, 0.25, 0.5])
def test_no_token_is_in_both_parts(impl: Data, size: int, fraction: float) -> None:
    """No position of the stream is in training and validation both, and none is lost.

    A model that has seen the validation text scores well on it, and that says nothing.

    Hint: one cut: `stream[:cut]` and `stream[cut:]`.
    """
    parts = torch.cat(impl.train_validation_split(torch.arange(size), fraction))
    assert_close(parts.sort().values, torch.arange(size))


@rejects("split_at_random", "split_draws_the_validation")
@for_all(size=[16, 21, 99], fraction=[0.125, 0.25, 0.5])
def test_both_parts_are_contiguous(impl: Data, size: int, fraction: float) -> None:
    """Training and validation are each one piece of the text, in its order.

    Tokens picked at random are no text, and each one's neighbours in training would give it away.

    Hint: cut, do not draw.
    """
    for part in impl.train_validation_split(torch.arange(size), fraction):
        assert_close(part, part[0] + torch.arange(len(part)))


@rejects("batches_drop_the_last", "batches_fill_up_the_last", "batches_draw_with_replacement", "batches_never_end")
@for_all(count=axis("sequences"), length=axis("position"), batch_size=[1, 2, 3, 5, 20])
def test_an_epoch_has_each_sequence_once(impl: Data, count: int, length: int, batch_size: int) -> None:
    """In an epoch every sequence comes exactly once.

    Then an epoch's mean loss is that of the data; drawing with replacement leaves a third of it unseen.

    Hint: a permutation, `torch.randperm`, cut into pieces.
    """
    inputs, _ = _table(count, length)
    seen = _seen(impl.batches, inputs, batch_size, generator("epoch"))
    assert_close(seen.flatten().sort().values, inputs.flatten())


@rejects("batches_part_inputs_from_targets", "batches_forget_to_shuffle_targets", "batches_shuffle_in_place")
@for_all(count=axis("sequences"), length=axis("position"), batch_size=[1, 2, 3, 5, 20])
def test_sequences_keep_their_targets(impl: Data, count: int, length: int, batch_size: int) -> None:
    """Each sequence comes with its own targets, whole and in order.

    Inputs and targets that are shuffled apart teach nothing but frequencies.

    Hint: one order for both.
    """
    inputs, targets = _table(count, length)
    for x, y in _epoch(impl.batches, inputs, targets, batch_size, generator("epoch")):
        assert_close(x, inputs[x[:, 0] // length])
        assert_close(y, x + 1)


@rejects("batches_drop_the_last", "batches_fill_up_the_last", "batches_never_end", "batches_counted_instead_of_sized")
@for_all(count=axis("sequences"), batch_size=[1, 2, 3, 4, 20])
def test_the_last_batch_may_be_smaller(impl: Data, count: int, batch_size: int) -> None:
    """All batches have batch_size sequences but the last, which has what is left.

    Dropping the rest would lose other sequences in every epoch, and all of them where there are few.

    Hint: `order.split(batch_size)` keeps the rest.
    """
    inputs, targets = _table(count, 2)
    sizes = [len(x) for x, _ in _epoch(impl.batches, inputs, targets, batch_size, generator("epoch"))]
    assert sizes == [batch_size] * (count // batch_size) + [count % batch_size] * (count % batch_size > 0)


@rejects("batches_in_order", "batches_of_neighbours", "batches_shuffled_inside")
@for_all(batch_size=[1, 8, 13], examples=3)
def test_an_epoch_is_shuffled(impl: Data, batch_size: int) -> None:
    """Sequences come in random order: far from where they stood, and away from their neighbours.

    Neighbours in a text resemble each other. A batch of them points the gradient at one scene of the play.

    Hint: shuffle single sequences over the whole epoch, not whole batches, nor within a batch.
    """
    order = _order(impl.batches, 104, batch_size, generator("shuffle"))
    assert (order - torch.arange(len(order))).abs().float().mean() > 104 / 8  # by chance it is 104 / 3
    assert (order.diff() == 1).sum() < 104 / 4  # by chance it is 1


@rejects("batches_alike_in_every_epoch", "batches_ignore_the_generator", "batches_by_pythons_random")
@for_all(count=[20, 33], batch_size=[1, 7])
def test_a_generator_decides_the_order(impl: Data, count: int, batch_size: int) -> None:
    """Generators with equal seeds give equal orders, other seeds others, and one generator another each epoch.

    A run can then be repeated exactly, and still no two epochs are alike.

    Hint: `torch.randperm(count, generator=generator)`
    """
    source = generator("order")
    first, second = _order(impl.batches, count, batch_size, source), _order(impl.batches, count, batch_size, source)
    assert_close(_order(impl.batches, count, batch_size, generator("order")), first)
    assert not torch.equal(second, first)
    assert not torch.equal(_order(impl.batches, count, batch_size, generator("another")), first)


@rejects(
    "batches_in_order",
    "batches_of_neighbours",
    "batches_shuffled_inside",
    "batches_alike_in_every_epoch",
    "batches_by_a_new_generator",
    "batches_by_pythons_random",
)
@for_all(count=[20, 33], batch_size=[1, 7])
def test_without_a_generator_the_order_is_torchs(impl: Data, count: int, batch_size: int) -> None:
    """Without a generator the order comes from torch's global one, and differs from epoch to epoch.

    One seed then repeats the whole program; Python's and numpy's own random numbers have others.

    Hint: `generator=None` means the global generator for every function of torch.
    """
    with torch.random.fork_rng(devices=[]):
        state = torch.get_rng_state()
        first, second = (_order(impl.batches, count, batch_size, None) for _ in range(2))
        torch.set_rng_state(state)
        again = _order(impl.batches, count, batch_size, None)
    assert_close(again, first)
    assert not torch.equal(second, first)


@rejects("batches_shuffle_in_place")
@for_all(count=axis("sequences"), batch_size=[1, 3])
def test_batches_leave_the_data_alone(impl: Data, count: int, batch_size: int) -> None:
    """Inputs and targets stand as they stood when the epoch is over.

    Shuffling them in place moves them under whoever else uses them.

    Hint: index by a shuffled order; do not move rows.
    """
    inputs, targets = _table(count, 3)
    before = inputs.clone(), targets.clone()
    _epoch(impl.batches, inputs, targets, batch_size, generator("epoch"))
    assert_close((inputs, targets), before)


@rejects(
    "reversal_repeats_the_half",
    "reversal_mirrors_the_batch",
    "reversal_shares_the_middle",
    "reversal_mirrors_the_batch_too",
)
@for_all(batch=axis("batch"), half=axis("half"), vocab=axis("vocab"))
def test_the_second_half_mirrors_the_first(impl: Data, batch: int, half: int, vocab: int) -> None:
    """A reversal sequence is 2 · half tokens, and reads the same from both ends.

    To continue it, a model must look back exactly as far as it has come since the middle: a pure test of attention.

    Source: the Deep Learning Curriculum, chapter 1.

    Hint: `torch.cat([first, first.flip(-1)], dim=-1)`
    """
    rows = impl.reversal_sequences(batch, half, vocab, generator=generator("rows"))
    assert rows.shape == (batch, 2 * half)
    assert_close(rows, rows.flip(-1))


@rejects(
    "reversal_of_one_row",
    "reversal_is_sorted",
    "reversal_rounds_real_numbers",
    "reversal_without_the_last_id",
    "reversal_without_zero",
    "reversal_up_to_vocab",
    "reversal_prefers_small_ids",
)
@for_all(vocab=[2, 5, 10], half=[1, 6], examples=4)
def test_the_first_half_is_uniform(impl: Data, vocab: int, half: int) -> None:
    """At each place of the first half all ids from 0 to vocab − 1 are equally likely.

    The first half is pure chance: the best loss on it is ln(vocab), and whoever gets below has seen the future.

    Source: the Deep Learning Curriculum, chapter 1.

    Hint: `torch.randint(vocab, (batch, half), generator=generator)`; its upper end is not included.
    """
    rows = impl.reversal_sequences(3000, half, vocab, generator=generator("uniform"))[:, :half]
    assert rows.min() >= 0
    assert rows.max() < vocab
    counts = torch.stack([(rows == id).sum(0) for id in range(vocab)]).float()
    spread = (3000 / vocab * (1 - 1 / vocab)) ** 0.5
    assert (counts - 3000 / vocab).abs().max() < 6 * spread


@rejects(
    "reversal_of_one_row",
    "reversal_of_one_token",
    "reversal_without_repetition",
    "reversal_is_sorted",
    "reversal_without_the_last_id",
    "reversal_without_zero",
    "reversal_up_to_vocab",
    "reversal_prefers_small_ids",
)
@for_all(vocab=[2, 4], half=[2, 5], examples=3)
def test_the_first_half_is_independent(impl: Data, vocab: int, half: int) -> None:
    """What stands at one place says nothing about another place, nor about the next sequence.

    Ids drawn without repetition, or sorted, could be guessed from those before.

    Hint: draw all batch · half ids anew.
    """
    rows = impl.reversal_sequences(3000, half, vocab, generator=generator("independent"))[:, :half]
    spread = (3000 / vocab**2) ** 0.5
    for here, there in ((rows[:, :-1], rows[:, 1:]), (rows[:-1], rows[1:])):
        pairs = torch.stack([(here * vocab + there == pair).sum(0) for pair in range(vocab**2)]).float()
        assert (pairs - 3000 / vocab**2).abs().max() < 6.5 * spread


@rejects("reversal_ignores_the_generator", "reversal_alike_every_time")
@for_all(batch=[4, 9], half=[8, 13])
def test_a_generator_decides_the_sequences(impl: Data, batch: int, half: int) -> None:
    """Reversal sequences come from the generator, or from torch's global one where there is none.

    Training needs fresh sequences, and a run that can be repeated.

    Hint: pass `generator=generator` on; keep no seed of your own.
    """
    source = generator("one")
    first, second = (impl.reversal_sequences(batch, half, 50, generator=source) for _ in range(2))
    assert_close(impl.reversal_sequences(batch, half, 50, generator=generator("one")), first)
    assert not torch.equal(second, first)
    with torch.random.fork_rng(devices=[]):
        state = torch.get_rng_state()
        first, second = (impl.reversal_sequences(batch, half, 50) for _ in range(2))
        torch.set_rng_state(state)
        assert_close(impl.reversal_sequences(batch, half, 50), first)
    assert not torch.equal(second, first)


@robust
@rejects("tokens_with_empty_strings", "encode_of_nothing_is_float", "decode_joins_the_tokens")
@for_all(count=[0, 4])
def test_no_tokens_encode_to_no_ids(impl: Data, count: int) -> None:
    """An empty text is encoded as integers as well, none of them.

    A prompt may be empty; a float tensor then fails in the embedding.

    Hint: `torch.tensor([])` is float32: say `dtype=torch.long`.
    """
    vocabulary = impl.Vocabulary(_words(count, 3))
    ids = vocabulary.encode([])
    assert (ids.shape, ids.dtype) == ((0,), torch.long)
    assert vocabulary.decode(ids) == []
    assert impl.tokenize("") == []


@robust
@rejects("split_at_minus_zero")
@for_all(size=[1, 7])
def test_a_share_of_less_than_a_token_is_none(impl: Data, size: int) -> None:
    """Where `fraction` of the stream is less than one token, validation is empty and training is the whole stream.

    A few sentences are enough to try a model on; that nothing is kept for validation must not cost the training text.

    Hint: `stream[:-count]` is empty where count is 0: cut at `len(stream) - count`.
    """
    train, validation = impl.train_validation_split(torch.arange(size), 0.125)
    assert_close(train, torch.arange(size))
    assert len(validation) == 0


@robust
@rejects("sequences_move_to_the_cpu")
@for_all(size=[9, 20])
def test_data_stays_where_the_stream_is(impl: Data, size: int) -> None:
    """Sequences and both parts of a split are on the stream's device.

    Cutting does not need to move anything.

    Hint: slices and views stay where they are; `torch.tensor(…)` and numpy do not.
    """
    stream = torch.arange(size, device="meta")
    parts = *impl.sequences(stream, 3), *impl.train_validation_split(stream, 0.5)
    assert {part.device.type for part in parts} == {"meta"}


@robust
@rejects("short_streams_give_nothing", "short_streams_raise_without_numbers")
def test_short_stream_errors_name_the_numbers(impl: Data) -> None:
    """The error about a stream that is too short says how long it is.

    The learner's next question is which of the two numbers to change.

    Hint: an f-string with `len(stream)` and `length`.
    """
    assert refuses(lambda: impl.sequences(torch.arange(23), 41), 23)
