"""What goes wrong in generation."""
# ruff: noqa: N801

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reference.generation import KVCache, LayerKeysAndValues, generate
from reference.heads import LayerCache
from reference.language_model import DecoderLM
from spec.mistakes import instead_of


class _Through(nn.Module):
    """A model whose calls are changed on their way in or out."""

    max_length: int

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        if hasattr(model, "max_length"):
            self.max_length = int(model.max_length)  # type: ignore[arg-type]
        self.training = model.training

    def train(self, mode: bool = True) -> "_Through":
        """The wrapped model has its own mode."""
        self.model.train(mode)
        return self

    def modules(self, *args: Any, **kwargs: Any) -> Any:
        """Those of the wrapped model."""
        return self.model.modules(*args, **kwargs)

    def forward(self, tokens: Tensor, **cache: Any) -> Tensor:
        """Unchanged here."""
        logits: Tensor = self.model(tokens, **cache)
        return logits


class _Choosing(_Through):
    """A model that is sure of the token that `choose` has taken: (batch, vocab) logits become a (batch, 1) choice."""

    def __init__(self, model: nn.Module, choose: Callable[[Tensor], Tensor]) -> None:
        super().__init__(model)
        self.choose = choose

    def forward(self, tokens: Tensor, **cache: Any) -> Tensor:
        logits = super().forward(tokens, **cache)[:, -1:].float()
        return torch.zeros_like(logits).scatter(-1, self.choose(logits[:, 0])[:, None], 1.0)


def _sampled(
    model: nn.Module, prompt: Tensor, steps: int, choose: Callable[[Tensor], Tensor], cache: bool = False
) -> Tensor:
    """The right loop round another choice."""
    return generate(_Choosing(model, choose), prompt, steps, 0.0, cache=cache)


def _windowed(model: nn.Module, prompt: Tensor, steps: int, window: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The right loop at temperature 0, round what `window` lets the model read of the text."""
    context = getattr(model, "max_length", None) or 10**9

    class Windowed(_Through):
        def forward(self, tokens: Tensor, **cache: Any) -> Tensor:
            return super().forward(window(tokens, context))

    wrapped = Windowed(model)
    vars(wrapped).pop("max_length", None)
    return generate(wrapped, prompt, steps, 0.0)


def _draw(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)


def _top_k(logits: Tensor, top_k: int | None) -> Tensor:
    if top_k is None or top_k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)


def _top_p(logits: Tensor, top_p: float | None, crossing: bool = True) -> Tensor:
    if top_p is None:
        return logits
    ranked, order = logits.sort(descending=True)
    reached = ranked.softmax(-1).cumsum(-1)
    hidden = (reached - ranked.softmax(-1) if crossing else reached) >= top_p
    return torch.empty_like(logits).scatter(-1, order, ranked.masked_fill(hidden, -torch.inf))


def _drawn(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """The right loop as it is mostly written: what is not kept is hidden, and the draw is among all tokens."""
    if temperature == 0:
        return generate(model, prompt, steps, 0.0, cache=cache)
    return _sampled(
        model, prompt, steps, lambda logits: _draw(_top_p(_top_k(logits / temperature, top_k), top_p), generator), cache
    )


@instead_of(generate)
def returns_the_new_tokens_alone(model: nn.Module, prompt: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The prompt is left out of the result. It comes first, the new tokens after it."""
    return generate(model, prompt, *args, **kwargs)[:, prompt.shape[1] :]


@instead_of(generate)
def writes_one_token_too_many(model: nn.Module, prompt: Tensor, steps: int, *args: Any, **kwargs: Any) -> Tensor:
    """`steps + 1` tokens are written."""
    return generate(model, prompt, steps + 1, *args, **kwargs)


@instead_of(generate)
def steps_count_the_prompt(model: nn.Module, prompt: Tensor, steps: int, *args: Any, **kwargs: Any) -> Tensor:
    """The text is made `steps` long, the prompt included. `steps` tokens are to be added to it."""
    return generate(model, prompt, max(0, steps - prompt.shape[1]), *args, **kwargs)


@instead_of(generate)
def writes_into_the_prompt(model: nn.Module, prompt: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The caller's prompt is written into."""
    out = generate(model, prompt, *args, **kwargs)
    prompt.copy_(out[:, -prompt.shape[1] :])
    return out


@instead_of(generate)
def reads_the_first_position(model: nn.Module, prompt: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The next token is chosen by the logits of the first position. The last one has seen all of the text."""

    class First(_Through):
        def forward(self, tokens: Tensor, **cache: Any) -> Tensor:
            return super().forward(tokens, **cache).flip(1)

    return generate(First(model), prompt, *args, **kwargs)


@instead_of(generate)
def never_reads_what_it_wrote(model: nn.Module, prompt: Tensor, steps: int, *args: Any, **kwargs: Any) -> Tensor:
    """Every step reads the prompt alone. What was written belongs to what is read next."""
    new = [generate(model, prompt, 1, *args, **kwargs)[:, -1:] for _ in range(steps)]
    return torch.cat([prompt, *new], 1)


@instead_of(generate)
def temperature_zero_is_one(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, *args: Any, **kwargs: Any
) -> Tensor:
    """Temperature 0 is taken for 'not given' (`temperature or 1.0`). It means the most likely token."""
    return _drawn(model, prompt, steps, temperature or 1.0, *args, **kwargs)


@instead_of(generate)
def divides_by_temperature_zero(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, *args: Any, **kwargs: Any
) -> Tensor:
    """The logits are divided by a temperature of 0, which gives infinities and NaN. Take the arg-max there."""
    if temperature == 0:
        return _sampled(model, prompt, steps, lambda logits: _draw(logits / temperature, None))
    return generate(model, prompt, steps, temperature, *args, **kwargs)


@instead_of(generate)
def always_takes_the_most_likely(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, *args: Any, **kwargs: Any
) -> Tensor:
    """The most likely token is taken whatever the temperature is. Above 0, tokens are drawn."""
    return generate(model, prompt, steps, 0.0, *args, **kwargs)


@instead_of(generate)
def draws_uniformly(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """All kept tokens are drawn alike. Each is to be drawn as often as it is likely."""
    if temperature == 0:
        return generate(model, prompt, steps, 0.0, cache=cache)

    def choose(logits: Tensor) -> Tensor:
        kept = _top_p(_top_k(logits / temperature, top_k), top_p)
        return torch.multinomial(kept.isfinite().float(), 1, generator=generator)

    return _sampled(model, prompt, steps, choose, cache)


@instead_of(generate)
def temperature_is_ignored(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, *args: Any, **kwargs: Any
) -> Tensor:
    """The temperature changes nothing, unless it is 0. The logits are divided by it."""
    return _drawn(model, prompt, steps, temperature and 1.0, *args, **kwargs)


@instead_of(generate)
def temperature_multiplies(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, *args: Any, **kwargs: Any
) -> Tensor:
    """The logits are multiplied by the temperature. They are divided by it: warmer is flatter."""
    return _drawn(model, prompt, steps, temperature and 1 / temperature, *args, **kwargs)


@instead_of(generate)
def temperature_divides_the_probabilities(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """The probabilities are divided by the temperature, after the softmax, which only scales them all."""
    return _drawn(model, prompt, steps, temperature and 1.0, top_k, top_p, generator, cache)


@instead_of(generate)
def top_k_is_ignored(
    model: nn.Module,
    prompt: Tensor,
    steps: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """top_k is taken and not used."""
    return _drawn(model, prompt, steps, temperature, None, *args, **kwargs)


@instead_of(generate)
def top_k_keeps_one_too_many(
    model: nn.Module,
    prompt: Tensor,
    steps: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """k + 1 tokens are kept. The k-th largest logit is the threshold, and it is at index k − 1."""
    return _drawn(model, prompt, steps, temperature, None if top_k is None else top_k + 1, *args, **kwargs)


@instead_of(generate)
def top_k_keeps_the_least_likely(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """The k least likely tokens are kept: the logits were sorted upwards."""
    if top_k is None or temperature == 0:
        return generate(model, prompt, steps, temperature, top_k, top_p, generator, cache)

    def choose(logits: Tensor) -> Tensor:
        threshold = logits.sort().values[:, min(top_k, logits.shape[-1]) - 1, None]
        return _draw(_top_p(logits.masked_fill(logits > threshold, -torch.inf) / temperature, top_p), generator)

    return _sampled(model, prompt, steps, choose, cache)


@instead_of(generate)
def top_k_hides_by_zero(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """Logits outside the top k are set to 0, which is not unlikely at all. Set them to −∞."""
    if top_k is None or temperature == 0:
        return generate(model, prompt, steps, temperature, top_k, top_p, generator, cache)

    def choose(logits: Tensor) -> Tensor:
        kept = _top_k(logits, top_k)
        return _draw(_top_p(kept.masked_fill(kept == -torch.inf, 0.0) / temperature, top_p), generator)

    return _sampled(model, prompt, steps, choose, cache)


@instead_of(generate)
def top_k_beyond_the_vocabulary_fails(
    model: nn.Module,
    prompt: Tensor,
    steps: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """torch's topk refuses more tokens than there are. Take `min(top_k, vocab)`."""
    if top_k is not None and steps:
        model(prompt[:, :1])[:, -1].topk(top_k)
    return generate(model, prompt, steps, temperature, top_k, *args, **kwargs)


@instead_of(generate)
def top_p_is_ignored(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """top_p is taken and not used."""
    return _drawn(model, prompt, steps, temperature, top_k, None, generator, cache)


@instead_of(generate)
def crossing_token_is_dropped(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """The token that crosses p is dropped, so less than p is kept, and sometimes nothing. It stays."""
    if top_p is None or temperature == 0:
        return _drawn(model, prompt, steps, temperature, top_k, None, generator, cache)
    return _sampled(
        model, prompt, steps,
        lambda logits: _draw(_top_p(_top_k(logits / temperature, top_k), top_p, False), generator), cache,
    )  # fmt: skip


@instead_of(generate)
def only_the_first_may_cross(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """The token that crosses p is dropped, unless it is the most likely one, so less than p is kept. It stays."""
    if top_p is None or temperature == 0:
        return _drawn(model, prompt, steps, temperature, top_k, None, generator, cache)

    def choose(logits: Tensor) -> Tensor:
        cut = _top_k(logits / temperature, top_k)
        ranked, order = cut.sort(descending=True)
        hidden = ranked.softmax(-1).cumsum(-1) > top_p
        hidden[:, 0] = False
        return _draw(cut.masked_fill(torch.zeros_like(hidden).scatter(-1, order, hidden), -torch.inf), generator)

    return _sampled(model, prompt, steps, choose, cache)


@instead_of(generate)
def one_more_than_crosses(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """One token more than needed is kept: the mask was moved by two, or the crossing token counted twice."""
    if top_p is None or temperature == 0:
        return generate(model, prompt, steps, temperature, top_k, top_p, generator, cache)

    def choose(logits: Tensor) -> Tensor:
        ranked, order = _top_k(logits / temperature, top_k).sort(descending=True)
        hidden = _top_p(ranked, top_p).isinf().roll(1, -1)
        hidden[:, 0] = False
        cut = ranked.masked_fill(hidden, -torch.inf)
        return _draw(torch.empty_like(cut).scatter(-1, order, cut), generator)

    return _sampled(model, prompt, steps, choose, cache)


@instead_of(generate)
def top_p_is_a_threshold(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """Tokens are kept whose own probability is at least 1 − p. It is the sum in falling order that has to reach p."""
    if top_p is None or temperature == 0:
        return generate(model, prompt, steps, temperature, top_k, top_p, generator, cache)

    def choose(logits: Tensor) -> Tensor:
        likely = _top_k(logits / temperature, top_k).softmax(-1)
        floor = (1 - top_p) * likely.amax(-1, keepdim=True)
        return torch.multinomial(likely.masked_fill(likely < floor, 0.0), 1, generator=generator)

    return _sampled(model, prompt, steps, choose, cache)


@instead_of(generate)
def kept_ranks_are_taken_for_tokens(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """What is drawn is a rank in falling order, and it is returned as a token. Look up which token has that rank."""
    if (top_p is None and top_k is None) or temperature == 0:
        return _drawn(model, prompt, steps, temperature, top_k, top_p, generator, cache)

    def choose(logits: Tensor) -> Tensor:
        return _draw(_top_p((logits / temperature).sort(descending=True).values[:, :top_k], top_p), generator)

    return _sampled(model, prompt, steps, choose, cache)


@instead_of(generate)
def ranks_are_hidden_as_tokens(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """Which ranks top_p hides is read as which tokens it hides. Scatter the mask back through the sorted order."""
    if top_p is None or temperature == 0:
        return _drawn(model, prompt, steps, temperature, top_k, None, generator, cache)

    def choose(logits: Tensor) -> Tensor:
        cut = _top_k(logits / temperature, top_k)
        return _draw(cut.masked_fill(_top_p(cut.sort(descending=True).values, top_p).isinf(), -1e9), generator)

    return _sampled(model, prompt, steps, choose, cache)


@instead_of(generate)
def temperature_comes_last(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """top_p is applied before the temperature. The temperature comes first."""
    if temperature in (0, 1):
        return generate(model, prompt, steps, temperature, top_k, top_p, generator, cache)
    return _sampled(
        model, prompt, steps, lambda logits: _draw(_top_p(_top_k(logits, top_k), top_p) / temperature, generator), cache
    )


@instead_of(generate)
def top_p_comes_before_top_k(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """top_p is applied before top_k, to the whole distribution. It comes after it, with the shares of what is kept."""
    if temperature == 0 or top_k is None or top_p is None:
        return generate(model, prompt, steps, temperature, top_k, top_p, generator, cache)
    return _sampled(
        model, prompt, steps, lambda logits: _draw(_top_k(_top_p(logits / temperature, top_p), top_k), generator), cache
    )


@instead_of(generate)
def top_k_of_the_first_sequence(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """The k-th logit of the first sequence is the threshold for the whole batch. Each row has its own."""
    if temperature == 0 or top_k is None:
        return generate(model, prompt, steps, temperature, top_k, top_p, generator, cache)

    def choose(logits: Tensor) -> Tensor:
        hidden = logits < logits.topk(min(top_k, logits.shape[-1])).values[:1, -1:]
        hidden &= logits < logits.amax(-1, keepdim=True)
        return _draw(_top_p(logits.masked_fill(hidden, -torch.inf) / temperature, top_p), generator)

    return _sampled(model, prompt, steps, choose, cache)


@instead_of(generate)
def top_k_of_the_whole_batch(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """The smallest of all sequences' k-th logits is the threshold for the whole batch. Each row has its own."""
    if temperature == 0 or top_k is None:
        return generate(model, prompt, steps, temperature, top_k, top_p, generator, cache)

    def choose(logits: Tensor) -> Tensor:
        hidden = logits < logits.topk(min(top_k, logits.shape[-1])).values.min()
        return _draw(_top_p(logits.masked_fill(hidden, -torch.inf) / temperature, top_p), generator)

    return _sampled(model, prompt, steps, choose, cache)


@instead_of(generate)
def top_p_of_the_first_sequence(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """The tokens that top_p keeps for the first sequence are kept for the whole batch. Each row has its own."""
    if temperature == 0 or top_p is None:
        return generate(model, prompt, steps, temperature, top_k, top_p, generator, cache)

    def choose(logits: Tensor) -> Tensor:
        cut = _top_k(logits / temperature, top_k)
        return _draw(cut.masked_fill(_top_p(cut[:1], top_p).isinf(), -torch.inf), generator)

    return _sampled(model, prompt, steps, choose, cache)


@instead_of(generate)
def one_draw_for_the_batch(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """One token is drawn for the whole batch. Each sequence gets its own."""
    if temperature == 0:
        return generate(model, prompt, steps, temperature, cache=cache)

    def choose(logits: Tensor) -> Tensor:
        kept = _top_p(_top_k(logits / temperature, top_k), top_p)
        return _draw(kept[:1], generator).expand(len(logits), 1)

    return _sampled(model, prompt, steps, choose, cache)


@instead_of(generate)
def most_likely_of_the_batch(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, *args: Any, **kwargs: Any
) -> Tensor:
    """The arg-max is taken over the whole batch (no axis given, or `.item()`). Each sequence has its own."""
    if temperature:
        return generate(model, prompt, steps, temperature, *args, **kwargs)
    return _sampled(model, prompt, steps, lambda logits: (logits.argmax() % logits.shape[-1]).expand(len(logits), 1))


@instead_of(generate)
def generator_is_ignored(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """`generator` is taken and not used: the global random numbers decide."""
    return _drawn(model, prompt, steps, temperature, top_k, top_p, None, cache)


@instead_of(generate)
def top_p_forgets_the_generator(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """With top_p the draw is made in another place, and `generator` is not passed on to it."""
    source = generator if top_p is None else None
    return _drawn(model, prompt, steps, temperature, top_k, top_p, source, cache)


@instead_of(generate)
def always_the_same_seed(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """Without a generator a fixed seed is used, so that every call writes the same. The global one decides then."""
    generator = generator or torch.Generator().manual_seed(0)
    return generate(model, prompt, steps, temperature, top_k, top_p, generator, cache)


@instead_of(generate)
def generator_made_anew_each_step(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """Every step starts from the same random state, so that the same number is drawn again and again."""
    seed = torch.initial_seed() if generator is None else generator.initial_seed()
    for _ in range(steps):
        again = torch.Generator().manual_seed(seed)
        prompt = generate(model, prompt, 1, temperature, top_k, top_p, again, cache)
    return prompt.clone()


@instead_of(generate)
def crops_from_the_right(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, *args: Any, **kwargs: Any
) -> Tensor:
    """The first max_length tokens are kept, and what was written last is not read. Crop from the left."""
    context = getattr(model, "max_length", None)
    if context is None or prompt.shape[1] + steps <= context:
        return generate(model, prompt, steps, temperature, *args, **kwargs)
    return _windowed(model, prompt, steps, lambda tokens, n: tokens[:, :n])


@instead_of(generate)
def never_crops(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, *args: Any, **kwargs: Any
) -> Tensor:
    """Texts longer than `max_length` are given to the model whole. Give it the last max_length tokens."""
    if prompt.shape[1] + steps <= (getattr(model, "max_length", None) or 10**9):
        return generate(model, prompt, steps, temperature, *args, **kwargs)
    return _windowed(model, prompt, steps, lambda tokens, _: tokens)


@instead_of(generate)
def crops_one_too_short(model: nn.Module, prompt: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """One token less than `max_length` is read."""

    class Shorter(_Through):
        def forward(self, tokens: Tensor, **cache: Any) -> Tensor:
            full = tokens.shape[1] == getattr(self, "max_length", None) and tokens.shape[1] > 1
            return super().forward(tokens[:, 1:] if full else tokens, **cache)

    return generate(Shorter(model), prompt, *args, **kwargs)


@instead_of(generate)
def crops_one_too_many(model: nn.Module, prompt: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Where the text is too long, room is left for the token to come, and one less than `max_length` is read. What
    comes is not read before the next step.
    """
    context, length = getattr(model, "max_length", None) or 10**9, prompt.shape[1] - 1

    class Shorter(_Through):
        def forward(self, tokens: Tensor, **cache: Any) -> Tensor:
            nonlocal length
            length += 1
            return super().forward(tokens[:, 1:] if length > context > 1 else tokens, **cache)

    return generate(Shorter(model), prompt, *args, **kwargs)


@instead_of(generate)
def crops_the_prompt_for_good(model: nn.Module, prompt: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A prompt longer than max_length comes back without its beginning. It is the window that is cropped."""
    return generate(model, prompt[:, -(getattr(model, "max_length", None) or prompt.shape[1]) :], *args, **kwargs)


@instead_of(generate)
def crops_the_result(model: nn.Module, prompt: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The text itself is cropped to max_length, so that its beginning is lost. Crop what the model reads."""
    out = generate(model, prompt, *args, **kwargs)
    return out[:, -(getattr(model, "max_length", None) or out.shape[1]) :]


@instead_of(generate)
def window_takes_the_place_of_the_text(
    model: nn.Module, prompt: Tensor, steps: int, *args: Any, **kwargs: Any
) -> Tensor:
    """At every step the text is cropped to max_length before the model reads it, so that its beginning is lost. The
    window needs a name of its own.
    """
    out, context = generate(model, prompt, steps, *args, **kwargs), getattr(model, "max_length", None)
    return out[:, -(context + 1) :] if context and steps else out


@instead_of(generate)
def context_of_a_hundred(model: nn.Module, prompt: Tensor, steps: int, *args: Any, **kwargs: Any) -> Tensor:
    """A model without `max_length` is given the last 100 tokens. It reads everything."""
    if not hasattr(model, "max_length"):
        wrapped = _Through(model)
        wrapped.max_length = 100
        return generate(wrapped, prompt, steps, *args, **kwargs)
    return generate(model, prompt, steps, *args, **kwargs)


@instead_of(generate)
def context_of_the_prompts_length(model: nn.Module, prompt: Tensor, steps: int, *args: Any, **kwargs: Any) -> Tensor:
    """A model without `max_length` is given as many tokens as the prompt has. It reads everything."""
    if not hasattr(model, "max_length"):
        wrapped = _Through(model)
        wrapped.max_length = prompt.shape[1]
        return generate(wrapped, prompt, steps, *args, **kwargs)
    return generate(model, prompt, steps, *args, **kwargs)


@instead_of(generate)
def needs_a_max_length(model: nn.Module, prompt: Tensor, steps: int, *args: Any, **kwargs: Any) -> Tensor:
    """The model is taken to have a `max_length`. Where it has none, its context is unbounded."""
    assert model.max_length
    return generate(model, prompt, steps, *args, **kwargs)


@instead_of(generate)
def leaves_the_model_in_eval(model: nn.Module, prompt: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The model is left in evaluation mode, so that training goes on without dropout. Put the mode back."""
    return generate(model.eval(), prompt, *args, **kwargs)


@instead_of(generate)
def leaves_the_model_in_training(model: nn.Module, prompt: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The model is put into training mode afterwards, whatever it was in. Put its own mode back."""
    out = generate(model, prompt, *args, **kwargs)
    model.train()
    return out


@instead_of(generate)
def forbidden_tokens_get_a_small_logit(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """Forbidden tokens get a large negative logit instead of −∞, so that they can be drawn when it is warm."""

    class Clamped(_Through):
        def forward(self, tokens: Tensor, **cache: Any) -> Tensor:
            return super().forward(tokens, **cache).clamp_min(-3.0)

    return generate(Clamped(model), prompt, steps, temperature, top_k, top_p, generator, cache)


@instead_of(generate)
def cache_is_ignored(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """`cache` is taken and not used: the whole text is read again for every token."""
    return generate(model, prompt, steps, temperature, top_k, top_p, generator, False)


@instead_of(generate)
def cache_of_the_last_call(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """A call goes on with the cache of the call before (a default argument, or kept in the model). Make one anew."""
    kept = model.__dict__.setdefault("kept", KVCache()) if cache else KVCache()

    class Kept(_Through):
        def forward(self, tokens: Tensor, **cache: Any) -> Tensor:
            fits = cache and kept.length + tokens.shape[1] <= self.max_length
            return super().forward(tokens, **({"cache": kept} if fits else cache))

    return generate(Kept(model), prompt, steps, temperature, top_k, top_p, generator, cache)


@instead_of(generate)
def cache_made_anew_at_every_step(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """Every step begins with an empty cache and reads the whole text, which saves nothing."""
    for _ in range(steps):
        prompt = generate(model, prompt, 1, temperature, top_k, top_p, generator, cache)
    return prompt.clone()


@instead_of(generate)
def cache_is_refilled_too_early(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """A text exactly as long as the context is read anew, though nothing is cropped yet. Refill where it is longer."""

    text = prompt[:, :0]

    class Early(_Through):
        def forward(self, tokens: Tensor, **given: Any) -> Tensor:
            nonlocal text
            text = tokens if tokens.shape[1] > 1 else torch.cat([text, tokens], 1)
            if text.shape[1] == getattr(model, "max_length", None) and tokens.shape[1] == 1:
                return super().forward(text, cache=KVCache())
            return super().forward(tokens, **given)

    made = (Early(model) if cache else model, prompt, steps, temperature, top_k, top_p, generator, cache)
    return generate(*made)


@instead_of(generate)
def cache_without_the_prompt(
    model: nn.Module, prompt: Tensor, steps: int, temperature: float = 1.0, top_k: int | None = None,
    top_p: float | None = None, generator: torch.Generator | None = None, cache: bool = False,
) -> Tensor:  # fmt: skip
    """The first cached step reads the prompt's last token alone. The cache has to be filled with all of it first."""
    if not cache:
        return generate(model, prompt, steps, temperature, top_k, top_p, generator)
    new = generate(model, prompt[:, -1:], steps, temperature, top_k, top_p, generator, cache)
    return torch.cat([prompt[:, :-1], new], 1)


class _NeverRefilled(_Through):
    """Past the context, the cache goes on without being refilled, as long as the model lets it."""

    def forward(self, tokens: Tensor, **cache: Any) -> Tensor:
        if "cache" not in cache:
            return super().forward(tokens)
        if not hasattr(self, "kept"):
            self.kept = cache["cache"]
            return super().forward(tokens, cache=self.kept)
        for held in self.kept._layers:
            if held.length >= self.max_length:
                held._held = held._held[0][..., 1:, :], held._held[1][..., 1:, :]
                held.length -= 1
        return super().forward(tokens[:, -1:], cache=self.kept)


@instead_of(generate)
def cache_is_not_refilled(model: nn.Module, prompt: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Past the context the oldest key is dropped and the rest kept, though every token has moved to another position.
    Refill the cache from the cropped window.
    """
    return generate(_NeverRefilled(model), prompt, *args, **kwargs)


class _Emptied(_NeverRefilled):
    """Past the context, the cache is emptied and filled from the newest token on."""

    def forward(self, tokens: Tensor, **cache: Any) -> Tensor:
        if hasattr(self, "kept") and self.kept.length >= self.max_length:
            self.kept = KVCache()
        return super().forward(tokens, **cache)


class _Halved(_Through):
    """Past the context, the cache is filled anew with half of it, and goes on from there."""

    def forward(self, tokens: Tensor, **cache: Any) -> Tensor:
        if "cache" not in cache:
            return super().forward(tokens)
        if not hasattr(self, "kept"):
            self.kept = cache["cache"]
        elif self.kept.length >= self.max_length:
            self.kept, tokens = KVCache(), tokens[:, -max(1, self.max_length // 2) :]
        else:
            tokens = tokens[:, -1:]
        return super().forward(tokens, cache=self.kept)


@instead_of(generate)
def refills_with_half_the_window(model: nn.Module, prompt: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Past the context the cache is refilled with the newest half of the window, to save work. It is the whole one."""
    return generate(_Halved(model), prompt, *args, **kwargs)


@instead_of(generate)
def emptied_cache_reads_one_token(model: nn.Module, prompt: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Past the context the cache is emptied and reads the last token alone. It has to read the whole cropped window."""
    return generate(_Emptied(model), prompt, *args, **kwargs)


@instead_of(DecoderLM)
class cached_tokens_stand_at_0(DecoderLM):
    """With a cache, learned or sinusoidal positions begin at 0 at every step. They begin at `offset=cache.length`."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        return super()._embed(tokens, 0)


@instead_of(DecoderLM)
class cached_slopes_of_the_first_rows(DecoderLM):
    """With a cache, ALiBi's first rows are taken, so new tokens measure from position 0. Theirs are the last rows."""

    def _bias(self, x: Tensor, offset: int) -> Tensor | None:
        rows = super()._bias(x.new_empty(1, offset + x.shape[1], 1), 0)
        return None if rows is None else rows[:, : x.shape[1]]


@instead_of(DecoderLM)
class cached_slopes_of_the_new_tokens(DecoderLM):
    """With a cache, ALiBi's bias is made for the new tokens alone, and what is held has none. It covers all keys."""

    def _bias(self, x: Tensor, offset: int) -> Tensor | None:
        rows = super()._bias(x, 0)
        return None if rows is None else nn.functional.pad(rows, (offset, 0))


@instead_of(DecoderLM)
class cached_prompt_sees_its_future(DecoderLM):
    """With a cache there is no causal mask, also while the prompt is read. Only a token on its own may see all keys."""

    def forward(self, tokens: Tensor, cache: Any = None) -> Tensor:  # noqa: D102
        self.caching = cache is not None
        return super().forward(tokens, cache)

    def _mask(self, x: Tensor, offset: int) -> Any:
        return None if self.caching else super()._mask(x, offset)


@instead_of(DecoderLM)
class cached_pieces_are_masked_from_the_start(DecoderLM):
    """Several tokens that follow others in a cache are masked as if they were the first: `tril` of (queries, keys) sets
    its corner at the start. They are the last: `tril(diagonal=keys - queries)`.
    """

    def _mask(self, x: Tensor, offset: int) -> Tensor:
        if x.shape[1] == 1:
            return super()._mask(x, offset)
        return torch.ones(x.shape[1], offset + x.shape[1], dtype=torch.bool, device=x.device).tril()


@instead_of(KVCache)
class keeps_the_graph(KVCache):
    """Keys and values are kept with their graph, so that memory grows with every step. Store them detached."""

    def layer(self, number: int) -> LayerKeysAndValues:  # noqa: D102
        class Attached(LayerKeysAndValues):
            def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
                self._held = super().extend(key, value)
                return self._held

        while len(self._layers) <= number:
            self._layers.append(Attached())
        return self._layers[number]


@instead_of(KVCache)
class one_cache_for_all_layers(KVCache):
    """All layers share one memory, so that each attends to the keys of the others. Each has its own."""

    def layer(self, number: int) -> LayerCache:  # noqa: D102
        return super().layer(0)


@instead_of(KVCache)
class cache_of_the_class(KVCache):
    """The memory belongs to the class and not to the object, so that all caches are one. Make it in `__init__`."""

    _everybodys: list[LayerKeysAndValues] = []  # noqa: RUF012

    def __init__(self) -> None:
        self._layers = self._everybodys


@instead_of(KVCache)
class does_not_know_its_length(KVCache):
    """The length that is held is always 0, so every new token gets position 0, and the mask is cut to it."""

    length = 0


def _with(layer: type[LayerKeysAndValues]) -> Any:
    def of(self: KVCache, number: int) -> LayerKeysAndValues:
        while len(self._layers) <= number:
            self._layers.append(layer())
        return self._layers[number]

    return of


class _NewestFirst(LayerKeysAndValues):
    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self._held is not None:
            key, value = torch.cat([key, self._held[0]], -2), torch.cat([value, self._held[1]], -2)
        self._held, self.length = (key.detach(), value.detach()), key.shape[-2]
        return key, value


class _NeverLonger(LayerKeysAndValues):
    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        held = super().extend(key, value)
        self.length = 0
        return held


class _KeysAlone(LayerKeysAndValues):
    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = super().extend(key, value)
        return keys, torch.cat([torch.zeros_like(values[..., : -value.shape[-2], :]), value], -2)


class _Overwrites(LayerKeysAndValues):
    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self._held is not None:
            missing = self.length
            old = torch.zeros_like(key[..., :1, :]).expand(*key.shape[:-2], missing, key.shape[-1])
            key, value = torch.cat([old, key], -2), torch.cat([old, value], -2)
        self._held, self.length = (key.detach(), value.detach()), key.shape[-2]
        return key, value


class _Halves(LayerKeysAndValues):
    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = super().extend(key.half().to(key.dtype), value.half().to(value.dtype))
        return keys, values


class _TheLastFour(LayerKeysAndValues):
    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = super().extend(key, value)
        self._held = keys[..., -4:, :].detach(), values[..., -4:, :].detach()
        self.length = self._held[0].shape[-2]
        return keys, values


@instead_of(KVCache)
class drops_the_oldest_keys(KVCache):
    """Only the newest keys are kept, and counted. All are visible until the context ends, and their number is where the
    next token stands.
    """

    layer = _with(_TheLastFour)


@instead_of(KVCache)
class cache_in_half_precision(KVCache):
    """Keys and values are kept in float16 to save memory, and the logits are not those of plain decoding. They keep
    their dtype.
    """

    layer = _with(_Halves)


@instead_of(KVCache)
class newest_keys_come_first(KVCache):
    """New keys and values are put before the old ones. They follow them, as masks and slopes expect."""

    layer = _with(_NewestFirst)


@instead_of(KVCache)
class keeps_the_keys_alone(KVCache):
    """The keys are kept, and the values of earlier tokens are lost. Keys and values come in pairs."""

    layer = _with(_KeysAlone)


@instead_of(KVCache)
class cached_tokens_turn_from_0(KVCache):
    """With a cache, rotary turns every new token as if it stood at position 0. Give it `offset=cache.length`."""

    layer = _with(_NeverLonger)

    @property
    def length(self) -> int:  # noqa: D102
        held = self._layers[0]._held if self._layers else None
        return held[0].shape[-2] if held else 0


@instead_of(KVCache)
class forgets_what_it_held(KVCache):
    """New keys take the place of the old ones instead of being appended to them."""

    layer = _with(_Overwrites)


@instead_of(generate)
def writing_remembers_the_graph(model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    """Autograd is on while text is written: each step is kept for a backward pass. `@torch.no_grad()` turns it off."""
    forward = model.forward
    model.forward = torch.enable_grad()(forward)
    try:
        return generate(model, *args, **kwargs)
    finally:
        del model.__dict__["forward"]
