"""# Generation

A language model writes by being asked for one token after the other. The logits become a choice in a fixed order:

    divide by the temperature → keep the top_k most likely → keep the fewest that reach top_p → draw

A cache keeps the keys and values of what was read, so that each token enters the blocks once.

Source: Fan et al. 2018, §5 (top-k); Holtzman et al. 2020, §3.1 (top-p); Karpathy, Let's build GPT.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spec.kit.close import assert_close
from spec.kit.draw import for_all, generator, integers, tokens
from spec.kit.marks import rejects, robust
from spec.kit.probe import history, refuses
from spec.kit.weights import perturb

SCHEMES = ["learned", "sinusoidal", "rotary", "alibi", "none"]
SIZES: dict[str, Any] = {"vocab": 13, "max_length": 9, "d_model": 24, "layers": 2, "heads": 4}


class Generation(Protocol):
    """What an implementation of this chapter offers; the model's forward takes `cache=` from here on."""

    def KVCache(self) -> object:
        """An empty cache, which `model(tokens, cache=cache)` fills."""
        ...

    def generate(
        self,
        model: nn.Module,
        prompt: Int[Tensor, "batch position"],
        steps: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
        cache: bool = False,
    ) -> Int[Tensor, "batch longer"]:
        """The prompt, followed by `steps` tokens drawn from the model."""
        ...


class Whole(Generation, Protocol):
    """This chapter together with the model that it writes with."""

    def DecoderLM(self, **sizes: Any) -> Any:
        """The model of chapter language_model."""
        ...


class Says(nn.Module):
    """A model that gives the same probabilities everywhere, whatever it reads."""

    def __init__(self, *probabilities: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log().to(dtype), requires_grad=False)

    def forward(self, tokens: Tensor, cache: object = None) -> Tensor:
        """Logits."""
        return self.logits.expand(*tokens.shape, -1).clone()


class Listens(Says):
    """The same, and hears whether autograd is on."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__(*probabilities)
        self.heard: list[bool] = []

    def forward(self, tokens: Tensor, cache: object = None) -> Tensor:
        """Logits."""
        self.heard.append(torch.is_grad_enabled())
        return super().forward(tokens)


class SaysByFirst(nn.Module):
    """A model that gives other numbers to sequences that begin with another token: one row of logits for each."""

    def __init__(self, *logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits), requires_grad=False)

    def forward(self, tokens: Tensor, cache: object = None) -> Tensor:
        """Logits."""
        return self.logits[tokens[:, :1]].expand(*tokens.shape, -1).clone()


class Adds(nn.Module):
    """A model that is sure of one token: the sum of the tokens that it is given, modulo 10."""

    def __init__(self, max_length: int | None = None) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))
        if max_length is not None:
            self.max_length = max_length

    def forward(self, tokens: Tensor, cache: object = None) -> Tensor:
        """Logits."""
        return 100.0 * nn.functional.one_hot(tokens.cumsum(1) % 10, 10)


def _adds(prompt: list[int], steps: int, context: int = 1000) -> list[int]:
    """What `Adds` writes, done by hand."""
    for _ in range(steps):
        prompt = [*prompt, sum(prompt[-context:]) % 10]
    return prompt


@rejects("returns_the_new_tokens_alone", "writes_one_token_too_many", "steps_count_the_prompt")
@for_all(prompt=integers("batch position", below=5), steps=[0, 1, 4])
def test_the_prompt_comes_first(impl: Generation, prompt: Tensor, steps: int) -> None:
    """The result is the prompt and then `steps` tokens, for every sequence of the batch; the prompt stays as it was.

    What was asked and what was answered belong together, and who wants the answer alone can cut it off.

    Hint: `torch.cat([tokens, token], dim=1)` in a loop that runs `steps` times.
    """
    before = prompt.clone()
    out = impl.generate(Says(0.2, 0.2, 0.2, 0.2, 0.2), prompt, steps, generator=generator())
    assert out.shape == (prompt.shape[0], prompt.shape[1] + steps)
    assert out.dtype == prompt.dtype
    assert torch.equal(out[:, : prompt.shape[1]], before)
    assert torch.equal(prompt, before)


@rejects("reads_the_first_position", "never_reads_what_it_wrote", "most_likely_of_the_batch")
@for_all(prompt=integers("batch position", below=10), steps=[1, 5])
def test_temperature_zero_takes_the_most_likely_token(impl: Generation, prompt: Tensor, steps: int) -> None:
    """At temperature 0 each new token is the most likely one after all tokens before it, new ones included.

    It is the limit of ever colder drawing, and the only answer that does not depend on chance.

    Hint: the last position's logits, `logits[:, -1].argmax(-1)`; dividing by 0 is not needed.
    """
    out = impl.generate(Adds(), prompt, steps, temperature=0.0)
    assert out.tolist() == [_adds(row, steps) for row in prompt.tolist()]


@rejects("temperature_zero_is_one", "divides_by_temperature_zero", "needs_a_max_length")
def test_temperature_zero_ignores_chance(impl: Generation) -> None:
    """At temperature 0 the seed makes no difference, and nor do top_k and top_p.

    The most likely token is in every kept set.

    Hint: return the arg-max before anything is divided, kept or drawn.
    """
    says, prompt = Says(0.3, 0.25, 0.35, 0.1), tokens(4, 3, 2)
    for options in ({}, {"top_k": 2}, {"top_p": 0.5}, {"generator": generator(1)}, {"generator": generator(2)}):
        assert (impl.generate(says, prompt, 6, temperature=0.0, **options)[:, 2:] == 2).all()


@rejects("draws_uniformly", "one_draw_for_the_batch")
def test_tokens_are_drawn_as_often_as_they_are_likely(impl: Generation) -> None:
    """At temperature 1 each token comes as often as its probability says.

    Then what is written is a sample of what the model believes.

    Hint: `torch.multinomial(logits.softmax(-1), 1)`.
    """
    assert _off(_drawn(impl.generate, Says(0.4, 0.3, 0.2, 0.1)), 0.4, 0.3, 0.2, 0.1) < 6


@rejects(
    "draws_uniformly",
    "temperature_is_ignored",
    "temperature_multiplies",
    "temperature_divides_the_probabilities",
    "one_draw_for_the_batch",
)
@for_all(temperature=[0.5, 2.0], examples=2)
def test_temperature_divides_the_logits(impl: Generation, temperature: float) -> None:
    """The logits are divided by the temperature: below 1 likely tokens become likelier, above 1 all become alike.

    A probability p becomes p^(1/temperature), up to what makes the sum one.

    Source: Ackley et al. 1985, §2.

    Hint: `logits / temperature`, before the softmax.
    """
    expected = torch.tensor([0.4, 0.3, 0.2, 0.1]) ** (1 / temperature)
    drawn = _drawn(impl.generate, Says(0.4, 0.3, 0.2, 0.1), temperature=temperature)
    assert _off(drawn, *(expected / expected.sum()).tolist()) < 6


@rejects("top_k_is_ignored", "top_k_keeps_one_too_many", "top_k_keeps_the_least_likely", "top_k_hides_by_zero")
@for_all(top_k=[1, 2, 3], examples=3)
def test_top_k_keeps_the_k_most_likely(impl: Generation, top_k: int) -> None:
    """With top_k, exactly the k most likely tokens are drawn, as often as their shares of what is kept say.

    A large vocabulary has a long tail: each token there is unlikely, but together they spoil every other word.

    Source: Fan et al. 2018, §5.

    Hint: the k-th largest logit is the threshold; hide what is below it with −inf and take the softmax after that.
    """
    shares = [0.2, 0.4, 0.1, 0.3]
    kept = [p if p in sorted(shares)[-top_k:] else 0.0 for p in shares]
    drawn = _drawn(impl.generate, Says(*shares), top_k=top_k)
    assert set(drawn) == {token for token, p in enumerate(kept) if p}
    assert _off(drawn, *(p / sum(kept) for p in kept)) < 6


@rejects("top_p_is_ignored", "one_more_than_crosses", "top_p_is_a_threshold", "only_the_first_may_cross")
@for_all(top_p=[(0.3, {1}), (0.5, {1, 3}), (0.65, {1, 3}), (0.75, {0, 1, 3}), (0.95, {0, 1, 2, 3})], examples=5)
def test_top_p_keeps_the_token_that_crosses_p(impl: Generation, top_p: tuple[float, set[int]]) -> None:
    """With top_p, the fewest most likely tokens are kept whose probabilities reach p: the one that crosses p is in.

    Where the model is sure, one token is kept; where it is not, many are. The crossing token has to stay, or the kept
    ones would reach less than p, and sometimes nothing would be kept at all.

    Source: Holtzman et al. 2020, §3.1.

    Hint: in falling order, hide a token when those BEFORE it already reach p: `probability.cumsum(-1) − probability`.
    """
    p, expected = top_p
    shares = [0.2, 0.4, 0.1, 0.3]
    kept = [share if token in expected else 0.0 for token, share in enumerate(shares)]
    drawn = _drawn(impl.generate, Says(*shares), top_p=p)
    assert set(drawn) == expected
    assert _off(drawn, *(share / sum(kept) for share in kept)) < 6


@rejects(
    "top_p_is_ignored",
    "crossing_token_is_dropped",
    "one_more_than_crosses",
    "kept_ranks_are_taken_for_tokens",
    "ranks_are_hidden_as_tokens",
)
def test_the_most_likely_token_is_always_kept(impl: Generation) -> None:
    """However small top_p is, the most likely token is kept, and top_p=1 keeps every token.

    Source: Holtzman et al. 2020, §3.1.

    Hint: a set of nothing cannot be drawn from.
    """
    assert set(_drawn(impl.generate, Says(0.2, 0.4, 0.1, 0.3), top_p=1e-6)) == {1}
    assert set(_drawn(impl.generate, Says(0.2, 0.4, 0.1, 0.3), top_p=1.0)) == {0, 1, 2, 3}


@rejects(
    "temperature_is_ignored",
    "temperature_multiplies",
    "temperature_divides_the_probabilities",
    "top_p_is_a_threshold",
    "temperature_comes_last",
)
def test_top_p_sees_the_temperature(impl: Generation) -> None:
    """The temperature comes before top_p: a warmer distribution is flatter, so more tokens are needed to reach p.

    At temperature 2, (0.4, 0.3, 0.2, 0.1) becomes (0.33, 0.28, 0.23, 0.16), where two tokens reach 0.61.

    Hint: divide first, then everything else is done with the new probabilities.
    """
    says = Says(0.4, 0.3, 0.2, 0.1)
    assert set(_drawn(impl.generate, says, top_p=0.65)) == {0, 1}
    assert set(_drawn(impl.generate, says, top_p=0.65, temperature=2.0)) == {0, 1, 2}
    assert set(_drawn(impl.generate, says, top_p=0.65, temperature=0.25)) == {0}


@rejects(
    "top_k_of_the_first_sequence",
    "top_k_of_the_whole_batch",
    "top_p_of_the_first_sequence",
    "one_draw_for_the_batch",
)
@for_all(options=[{"top_k": 2}, {"top_p": 0.6}])
def test_each_sequence_keeps_its_own_tokens(impl: Generation, options: dict[str, Any]) -> None:
    """Which tokens are kept is settled for each sequence of a batch by its own logits.

    What is likely after one text is not likely after another, and logits are on no common scale.

    Hint: the threshold keeps its axis: `values[:, -1:]`, one number a row.
    """
    model = SaysByFirst([4.0, 3.9, 0.0, 0.0], [5.0, 5.0, 9.0, 8.9], [-9.0, -5.1, -9.0, -5.0])
    prompt = torch.arange(3).repeat(100)[:, None]
    drawn = impl.generate(model, prompt, 6, generator=generator(), **options)[:, 1:]
    kept = [set(drawn[first::3].flatten().tolist()) for first in range(3)]
    assert kept == [{0, 1}, {2, 3}, {1, 3}]


@rejects("top_k_is_ignored", "top_k_keeps_one_too_many", "top_p_comes_before_top_k")
def test_top_p_sees_what_top_k_kept(impl: Generation) -> None:
    """top_k comes before top_p: p is a share of what top_k kept.

    Of (0.4, 0.3, 0.2, 0.1), three tokens are kept, whose shares are 0.44, 0.33 and 0.22: two reach 0.75 of them, while
    of the whole three would be needed.

    Hint: take the softmax anew after top_k has hidden the others.
    """
    says = Says(0.4, 0.3, 0.2, 0.1)
    assert set(_drawn(impl.generate, says, top_k=3, top_p=0.75)) == {0, 1}
    assert set(_drawn(impl.generate, says, top_p=0.75)) == {0, 1, 2}


@rejects(
    "returns_the_new_tokens_alone",
    "writes_one_token_too_many",
    "steps_count_the_prompt",
    "generator_made_anew_each_step",
)
def test_every_row_and_step_is_drawn_anew(impl: Generation) -> None:
    """Each sequence of a batch, and each step, is drawn on its own.

    Equal prompts are many attempts at one answer, and they are worth nothing if they are all the same.

    Hint: `torch.multinomial` draws for each row; one generator serves all steps.
    """
    out = impl.generate(Says(0.5, 0.5), torch.zeros(30, 1, dtype=torch.long), 30, generator=generator())[:, 1:]
    for rows in (out, out.T):
        assert len({tuple(row) for row in rows.tolist()}) == 30


@rejects("always_takes_the_most_likely", "generator_is_ignored", "needs_a_max_length", "top_p_forgets_the_generator")
@for_all(top=[{}, {"top_k": 2}, {"top_p": 0.9}], examples=3)
def test_the_generator_decides(impl: Generation, top: dict[str, Any]) -> None:
    """Equal generators give equal texts, others other ones, and the global random numbers are left alone.

    A result that can be repeated can be looked into.

    Hint: hand `generator` to `torch.multinomial`; no torch.manual_seed.
    """
    says, prompt, state = Says(0.5, 0.5), tokens(2, 2, 1), torch.get_rng_state()
    one, again, other = (impl.generate(says, prompt, 40, generator=generator(key), **top) for key in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


@rejects("always_the_same_seed", "generator_made_anew_each_step")
def test_without_a_generator_the_global_one_is_used(impl: Generation) -> None:
    """Without `generator` torch's global random numbers are used: two calls differ, and its state repeats them.

    So `torch.manual_seed` at the head of a program repeats the whole program.

    Hint: `generator=None` is what torch's functions take as well.
    """
    says, prompt, state = Says(0.5, 0.5), tokens(2, 2, 1), torch.get_rng_state()
    one, other = (impl.generate(says, prompt, 40) for _ in range(2))
    torch.set_rng_state(state)
    assert not torch.equal(one, other)
    assert torch.equal(impl.generate(says, prompt, 40), one)


@rejects(
    "crops_from_the_right",
    "crops_one_too_short",
    "crops_the_result",
    "window_takes_the_place_of_the_text",
    "crops_one_too_many",
    "crops_the_prompt_for_good",
)
@for_all(prompt=integers("batch position", below=10), context=[1, 2, 3, 6])
def test_the_context_is_cropped_from_the_left(impl: Generation, prompt: Tensor, context: int) -> None:
    """A model with `max_length` is given the last `max_length` tokens, in the prompt and later on.

    What was written last matters most for what comes next; the result still holds everything.

    Hint: `tokens[:, -max_length:]` goes to the model, `tokens` is what grows.
    """
    out = impl.generate(Adds(context), prompt, 5, temperature=0.0)
    assert out.tolist() == [_adds(row, 5, context) for row in prompt.tolist()]


@rejects("never_reads_what_it_wrote", "context_of_a_hundred", "context_of_the_prompts_length")
def test_a_model_without_max_length_reads_everything(impl: Generation) -> None:
    """A model without `max_length` is given all tokens, however many they are.

    Not every model has a table that ends.

    Hint: `getattr(model, "max_length", None)`
    """
    prompt = tokens(10, 2, 150)
    assert impl.generate(Adds(), prompt, 3, temperature=0.0).tolist() == [_adds(row, 3) for row in prompt.tolist()]


@rejects("temperature_zero_is_one", "divides_by_temperature_zero", "most_likely_of_the_batch", "never_crops")
@for_all(positions=SCHEMES, cache=[False, True], examples=6)
def test_sequences_of_a_batch_are_written_independently(impl: Whole, positions: str, cache: bool) -> None:
    """At temperature 0 each sequence of a batch continues as it would alone.

    Which prompts travel together is chance.

    Hint: nothing may be chosen for the batch as a whole: no `.item()`, no arg-max without an axis.
    """
    model = perturb(impl.DecoderLM(**SIZES, positions=positions)).double().eval()
    together = impl.generate(model, tokens(13, 3, 4), 8, temperature=0.0, cache=cache)
    alone = [impl.generate(model, row, 8, temperature=0.0, cache=cache) for row in tokens(13, 3, 4).chunk(3)]
    assert torch.equal(together, torch.cat(alone))


@rejects("writes_into_the_prompt", "leaves_the_model_in_eval", "leaves_the_model_in_training")
@for_all(training=[True, False], examples=2)
def test_the_model_keeps_its_mode(impl: Whole, training: bool) -> None:
    """The model is in the same mode afterwards, training or evaluation, and its weights are the same.

    A sample is written in the middle of a training run; what comes after must not notice.

    Hint: whoever calls `model.eval()` notes `model.training` first.
    """
    model = impl.DecoderLM(**SIZES).train(training)
    before = [p.clone() for p in model.parameters()]
    impl.generate(model, tokens(13, 2, 4), 3, temperature=0.0)
    assert model.training == training
    assert all(torch.equal(p, then) for p, then in zip(model.parameters(), before, strict=True))


@rejects(
    "newest_keys_come_first",
    "cached_slopes_of_the_first_rows",
    "cached_slopes_of_the_new_tokens",
    "cached_tokens_stand_at_0",
    "cached_prompt_sees_its_future",
    "cached_tokens_turn_from_0",
    "cache_in_half_precision",
)
@for_all(positions=SCHEMES, norm=["pre", "post"], examples=10)
def test_the_cache_changes_nothing_inside_the_context(impl: Whole, positions: str, norm: str) -> None:
    """With and without a cache the model says the same at every step, to rounding, and the same is written.

    What a token was keyed with does not change when others follow it: that is what a causal model is.

    Source: Shazeer 2019, §2.3.

    Hint: is the new token at its own position (`offset=cache.length`), and does it see all keys that are held?
    """
    model = perturb(impl.DecoderLM(**SIZES, positions=positions, norm=norm)).double().eval()
    ids = tokens(13, 2, 3)
    plain, cached = (_overheard(impl.generate, model, ids, 6, temperature=0.0, cache=c) for c in (False, True))
    assert_close(cached.said(6), plain.said(6), atol=1e-5, rtol=1e-5)
    assert torch.equal(cached.text, plain.text)


@rejects(
    "crops_one_too_short",
    "cache_is_not_refilled",
    "refills_with_half_the_window",
    "emptied_cache_reads_one_token",
    "cached_tokens_stand_at_0",
)
@for_all(positions=SCHEMES, examples=5)
def test_the_cache_changes_nothing_past_the_context(impl: Whole, positions: str) -> None:
    """Beyond `max_length` cached and plain writing agree as well: the cache is refilled from the cropped window.

    In the cropped window every token has moved to another position, so no key that was held is right any more.

    Hint: once the window is cropped, start an empty cache and give it the whole window, at every step.
    """
    model = perturb(impl.DecoderLM(**SIZES, positions=positions)).double().eval()
    ids = tokens(13, 2, 7)
    plain, cached = (_overheard(impl.generate, model, ids, 8, temperature=0.0, cache=c) for c in (False, True))
    assert_close(cached.said(8), plain.said(8), atol=1e-5, rtol=1e-5)
    assert torch.equal(cached.text, plain.text)


@rejects("never_crops", "cache_without_the_prompt", "emptied_cache_reads_one_token")
def test_a_prompt_beyond_the_context_can_be_cached(impl: Whole) -> None:
    """A prompt that is longer than `max_length` gives the same text with a cache and without.

    Hint: crop before the first filling too.
    """
    model = perturb(impl.DecoderLM(**SIZES)).double().eval()
    plain, cached = (impl.generate(model, tokens(13, 2, 14), 4, temperature=0.0, cache=c) for c in (False, True))
    assert torch.equal(cached, plain)


@rejects("reads_the_first_position", "generator_is_ignored", "cache_without_the_prompt", "top_p_forgets_the_generator")
@for_all(top=[{}, {"top_k": 4}, {"top_p": 0.8}], examples=3)
def test_drawing_is_the_same_with_a_cache(impl: Whole, top: dict[str, Any]) -> None:
    """With equal generators, drawn texts are the same with a cache and without, too.

    Hint: the cache decides what the model reads, and nothing about how a token is chosen.
    """
    model = perturb(impl.DecoderLM(**SIZES)).double().eval()
    plain, cached = (
        impl.generate(model, tokens(13, 3, 3), 6, 0.7, generator=generator(), cache=c, **top) for c in (False, True)
    )
    assert torch.equal(cached, plain)


@rejects("cache_of_the_last_call")
def test_each_call_starts_with_an_empty_cache(impl: Whole) -> None:
    """A second call with another prompt remembers nothing of the first.

    Hint: make the cache inside `generate`; beware of a list or a cache as a default argument.
    """
    model = perturb(impl.DecoderLM(**SIZES)).double().eval()
    impl.generate(model, tokens(13, 2, 2, key="other"), 2, temperature=0.0, cache=True)
    plain, cached = (impl.generate(model, tokens(13, 2, 3), 3, temperature=0.0, cache=c) for c in (False, True))
    assert torch.equal(cached, plain)


@rejects("cache_is_ignored", "cache_made_anew_at_every_step")
def test_one_token_enters_at_each_step(impl: Whole) -> None:
    """With a cache, after the prompt exactly one token enters the model at each step inside the context.

    That is the point of the cache: without it the whole text is read again for every token.

    Source: Shazeer 2019, §2.3.

    Hint: `model(tokens[:, -1:], cache=cache)`
    """
    model = impl.DecoderLM(**SIZES)
    heard = _overheard(impl.generate, model, tokens(13, 2, 3), 6, temperature=0.0, cache=True, shows="given")
    assert len(heard.lengths) >= 6
    assert all(length == 1 for length in heard.lengths[1:])


@rejects(
    "does_not_know_its_length",
    "keeps_the_keys_alone",
    "forgets_what_it_held",
    "drops_the_oldest_keys",
    "cached_tokens_turn_from_0",
)
@for_all(positions=SCHEMES, layers=[2, 1], examples=3)
def test_a_cache_is_filled_token_by_token(impl: Whole, positions: str, layers: int) -> None:
    """A cache that is filled with one token after the other gives the logits that the whole sequence has.

    Hint: `forward(tokens, cache=cache)` gets new tokens alone; where they stand, the cache knows.
    """
    sizes, ids = SIZES | {"layers": layers}, tokens(13, 2, 7)
    model = perturb(impl.DecoderLM(**sizes, positions=positions)).double().eval()
    impl.generate(model, ids, 0, cache=True)  # where no cache is offered, this says so
    cache, whole = impl.KVCache(), model(ids)
    pieces = [model(one, cache=cache) for one in ids.chunk(7, dim=1)]
    assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-5)


@rejects("cache_of_the_class", "does_not_know_its_length", "keeps_the_keys_alone", "forgets_what_it_held")
def test_two_caches_are_two_memories(impl: Whole) -> None:
    """Two caches know nothing of each other.

    Two texts can then be written in turn with one model.

    Hint: `self.layers = []` in `__init__`; a list in the class body is shared by all.
    """
    model, ids = perturb(impl.DecoderLM(**SIZES)).double().eval(), tokens(13, 2, 6)
    impl.generate(model, ids, 0, cache=True)  # where no cache is offered, this says so
    one, other = impl.KVCache(), impl.KVCache()
    model(ids[:, :3], cache=one)
    model(tokens(13, 2, 5, key="other"), cache=other)
    assert_close(model(ids[:, 3:4], cache=one)[:, 0], model(ids)[:, 3], atol=1e-5, rtol=1e-5)


@rejects("keeps_the_graph", "one_cache_for_all_layers")
def test_the_cache_holds_no_graph(impl: Whole) -> None:
    """What autograd remembers behind a cached step does not reach back into the steps before.

    Keys that keep their graph keep every activation of every step alive: memory grows until it ends.

    Hint: store `key.detach()`, `value.detach()`.
    """
    model, ids = impl.DecoderLM(**SIZES), tokens(13, 2, 4)
    impl.generate(model, ids, 0, cache=True)  # where no cache is offered, this says so
    cache = impl.KVCache()
    first, second = model(ids, cache=cache), model(ids[:, -1:], cache=cache)
    shared = history(first) & history(second)
    assert_close(any(not hasattr(step, "variable") for step in shared), False)


@robust
@rejects("cache_is_refilled_too_early")
def test_one_token_enters_at_the_last_place_of_the_context(impl: Whole) -> None:
    """Where the text is exactly as long as the context, nothing is cropped yet: one token enters.

    Hint: crop and refill where the text is longer than `max_length`, not where it is as long.
    """
    model = impl.DecoderLM(**SIZES)
    heard = _overheard(impl.generate, model, tokens(13, 2, 3), 7, temperature=0.0, cache=True, shows="given")
    assert len(heard.lengths) >= 7
    assert all(length == 1 for length in heard.lengths[1:7])


@robust
@rejects("newest_keys_come_first", "cached_tokens_turn_from_0", "cached_pieces_are_masked_from_the_start")
@for_all(positions=SCHEMES, examples=5)
def test_a_cache_is_filled_in_pieces_of_any_size(impl: Whole, positions: str) -> None:
    """Pieces of several tokens after others give the logits that the whole sequence has.

    A second question in the same conversation is such a piece: its tokens see all that is held, and each other
    causally.

    Hint: `causal_mask(queries, keys)`: the queries are the last positions.
    """
    model, ids = perturb(impl.DecoderLM(**SIZES, positions=positions)).double().eval(), tokens(13, 2, 9)
    impl.generate(model, ids, 0, cache=True)  # where no cache is offered, this says so
    cache, whole = impl.KVCache(), model(ids)
    pieces = [model(piece, cache=cache) for piece in torch.split(ids, [3, 4, 2], dim=1)]
    assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-5)


@robust
@rejects("drops_the_oldest_keys", "one_cache_for_all_layers")
def test_the_context_counts_what_the_cache_holds(impl: Whole) -> None:
    """More tokens than `max_length`, those in the cache included, are an error.

    Hint: the end is `cache.length + tokens.shape[1]`.
    """
    model = impl.DecoderLM(**SIZES, positions="none")
    impl.generate(model, tokens(13, 1, 1), 0, cache=True)  # where no cache is offered, this says so
    cache = impl.KVCache()
    model(tokens(13, 2, 6), cache=cache)
    assert refuses(lambda: model(tokens(13, 2, 4), cache=cache))


@robust
@rejects("cache_is_ignored", "cache_made_anew_at_every_step")
def test_a_cached_step_costs_one_position(impl: Whole) -> None:
    """A cached step multiplies about as many numbers as one position needs, whatever is held.

    A cache that keeps the tokens and reads them all again gives the right answer and saves nothing.

    Hint: keys and values are what is kept, of every layer; only the new token goes through the blocks.
    """
    model = impl.DecoderLM(**SIZES | {"max_length": 40}).eval()
    costs = []
    for length in (1, 31):
        products = []
        for steps in (1, 2):
            with Products() as counted:
                impl.generate(model, tokens(13, 1, length), steps, temperature=0.0, cache=True)
            products.append(counted.numbers)
        costs.append(products[1] - products[0])
    assert 0 < costs[1] < 3 * costs[0]


@robust
@rejects(
    "top_k_keeps_the_least_likely",
    "top_k_hides_by_zero",
    "crossing_token_is_dropped",
    "kept_ranks_are_taken_for_tokens",
    "forbidden_tokens_get_a_small_logit",
    "only_the_first_may_cross",
    "ranks_are_hidden_as_tokens",
)
@for_all(dtype=[torch.float16, torch.bfloat16, torch.float64], top=[{}, {"top_k": 3}, {"top_p": 0.99}], examples=5)
def test_logits_of_any_precision_can_be_drawn_from(impl: Generation, dtype: torch.dtype, top: dict[str, Any]) -> None:
    """Logits in float16, bfloat16 and float64 work, and a token of probability 0 is never drawn.

    Large models run in 16 bits; and forbidding a token by −inf is how a grammar is enforced.

    Hint: turn the logits into float32 before the softmax; −inf divided by a temperature stays −inf.
    """
    drawn = _drawn(impl.generate, Says(0.3, 0.0, 0.2, 0.5, dtype=dtype), **top)
    assert set(drawn) == {0, 2, 3}


@robust
@rejects("writing_remembers_the_graph")
def test_writing_remembers_no_graph(impl: Generation) -> None:
    """While text is written autograd is off: nothing is kept for a backward pass that never comes.

    With it, memory grows with every token of every layer.

    Hint: `@torch.no_grad()` on top of the function.
    """
    says = Listens(0.4, 0.6)
    impl.generate(says, torch.zeros(2, 1, dtype=torch.long), 3, generator=generator())
    assert says.heard == [False] * len(says.heard)


@robust
@rejects("always_takes_the_most_likely", "top_k_beyond_the_vocabulary_fails")
def test_top_k_may_exceed_the_vocabulary(impl: Generation) -> None:
    """A top_k beyond the vocabulary keeps every token.

    The same settings then serve models of every size.

    Hint: `min(top_k, vocab)`; torch's `topk` refuses more than there are.
    """
    assert set(_drawn(impl.generate, Says(0.2, 0.4, 0.1, 0.3), top_k=50)) == {0, 1, 2, 3}


def _drawn(generate: Callable[..., Tensor], model: nn.Module, **options: Any) -> Counter[int]:
    """How often each token comes in 2,400 draws."""
    prompt = torch.zeros(200, 1, dtype=torch.long)
    return Counter(generate(model, prompt, 12, generator=generator(), **options)[:, 1:].flatten().tolist())


def _off(drawn: Counter[int], *shares: float) -> float:
    """How many standard deviations the counts are away from those shares, at most."""
    draws = drawn.total()
    return max(abs(drawn[t] - draws * p) / max(math.sqrt(draws * p * (1 - p)), 1e-9) for t, p in enumerate(shares))


@dataclass
class Overheard:
    """What a model was given and what it answered at the last position, call by call, and the text in the end."""

    lengths: list[int] = field(default_factory=list)
    caches: list[bool] = field(default_factory=list)
    answers: list[Tensor] = field(default_factory=list)
    text: Tensor = field(default_factory=lambda: torch.empty(0))

    def said(self, calls: int) -> Tensor:
        """The last answers."""
        return torch.stack(self.answers[:calls])


def _overheard(
    generate: Callable[..., Tensor], model: nn.Module, prompt: Tensor, *how: Any, shows: str = "said", **kwargs: Any
) -> Overheard:
    """Listens in at the model's forward while a text is written; the lists that it shows hang on the model meanwhile,
    where a diagnosis compares them.
    """
    heard, forward = Overheard(), model.forward
    shown = {"said": ["answers"], "given": ["lengths", "caches"]}[shows]

    def listening(*given: Any, **named: Any) -> Tensor:
        logits: Tensor = forward(*given, **named)
        values = (*given, *named.values())
        heard.lengths.append(next(x for x in values if isinstance(x, Tensor)).shape[1])
        heard.caches.append(any(x is not None and not isinstance(x, Tensor) for x in values))
        heard.answers.append(logits[:, -1].detach().clone())
        return logits

    model.forward = listening
    vars(model).update({name: getattr(heard, name) for name in shown})
    try:
        heard.text = generate(model, prompt, *how, **kwargs)
    finally:
        for name in ("forward", *shown):
            del vars(model)[name]
    return heard


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the numbers that come out of matrix products, in whatever way a model spells them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operation on tensors comes by here."""
        out = operation(*args, **(kwargs or {}))
        if operation.overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm", "convolution"):
            self.numbers += out.numel()
        return out
