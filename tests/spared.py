"""Mutants of the reference that no requirement has to kill, and why: (chapter, piece of the changed line, reason).

A piece that begins with `+` is one of the line after the change.
"""

UNTOLD = "the curriculum leaves open what happens to such an argument"
ANYWAY = "a line later it is an error all the same"
SAME = "the same for every value that can occur"
START = "start values are a matter of the whole model, whose first loss is measured"
CACHE = "without a cache the offset is 0; chapter generation kills it"
WORDING = "the wording of a message"
DEFAULT = "the curriculum gives Settings no defaults"
UNTOLD_START = "the curriculum leaves open where a cell's weights start"
NO_NEGATIVE_IDS = "other targets are token ids, which are not negative"
SEVERAL = (
    "one process has nothing to average; the rehearsal on two kills it (pytest -m gpu --devices=cpu:2 spec/server.py)"
)
WRAPPED = "a step that does not add up a plain model's gradients is given DDP's, and is right there"
FACTOR = "a common factor does not change which sentence is the best"
PADDED = "how much padding stands behind the ends is open"
OPEN_LENGTH = "whether max_length counts the start is open"
BESIDE = "further entries beside those that are due are free"

SPARED = [
    ("positions", "0.02 * torch.randn(max_length", START),
    ("positions", "if offset < 0 or", UNTOLD),
    ("positions", "base: float = 10000.0", "less than the tolerance"),
    ("positions", "if d_k % 2", ANYWAY),
    ("masks", "if window < 1", UNTOLD),
    ("masks", "(back >= 0) & (back < window)", SAME),
    ("heads", "if context is not None and cache is not None", UNTOLD),
    ("heads", "if (d_k is None or d_v is None) and", UNTOLD),
    ("heads", "bias: bool = True", "an attention without biases is as right"),
    ("heads", "if rotary and d_k % 2", ANYWAY),
    ("heads", "offset = 0 if cache is None", "rotary positions are known by their distances alone"),
    ("blocks", '+if activation is "swiglu"', SAME),
    ("blocks", '+if activation >= "swiglu"', SAME),
    ("blocks", '+norm is "pre"', SAME),
    ("blocks", '+norm >= "pre"', SAME),
    ("data", "tokens is too short for length", WORDING),
    ("data", "if token != self.UNKNOWN", "the unknown token sorts before every word that occurs"),
    ("data", "not 0 <= id < len(self)", UNTOLD),
    ("data", "not 0 <= fraction <= 1", UNTOLD),
    ("data", "max_size < 1", UNTOLD),
    ("data", "first.flip(-1)", "a batch of rows has two axes"),
    ("generation", "+temperature <= 0", SAME),
    ("generation", "not 0 < top_p <= 1", UNTOLD),
    ("generation", "if temperature < 0", UNTOLD),
    ("generation", "top_k < 1", UNTOLD),
    ("generation", "+window.shape[1] != tokens.shape[1]", SAME),
    ("generation", "+window.shape[1] is not tokens.shape[1]", SAME),
    ("generation", "while len(self._layers) <= number", "layers are asked for in order"),
    ("generation", "+before > top_p", "a sum of probabilities meets p exactly only by chance of rounding"),
    ("generation", "dim=-2), torch.cat([self._held[1]", "held keys have four axes"),
    ("generation", "self.length = key.shape[-2]", "held keys have four axes"),
    ("generation", "argmax(-1", "the logits of one position have two axes"),
    ("generation", ".softmax(-1)", "the logits of one position have two axes"),
    ("generation", "likely.cumsum(-1)", "the logits of one position have two axes"),
    ("generation", "order.gather(-1, rank)", "the logits of one position have two axes"),
    ("language_model", "+offset |", CACHE),
    ("language_model", "+offset ^", CACHE),
    ("language_model", '+self.scheme >= "sinusoidal"', SAME),
    ("language_model", '+ is "', SAME),
    ("language_model", '+self.scheme > "alibi"', SAME),
    ("language_model", '+self.scheme is not "alibi"', SAME),
    ("language_model", "if parameter.ndim > 1", START),
    ("language_model", "@property", "a Protocol's property, for mypy alone"),
    ("training", "run.step + 1, settings.steps + 1", SAME),
    ("training", "matrices = {p for p in model.parameters() if p.ndim >= 2} - tables", SAME),
    ("training", "if step % settings.evaluate_every == 0 or step == settings.steps", BESIDE),
    ("training", "+run.position <= 0", SAME),
    ("training", "+logits.dtype is torch.float64", SAME),
    ("training", "+targets > IGNORE", NO_NEGATIVE_IDS),
    ("training", "torch.cuda", "random state of a GPU, which this run has none of"),
    ("training", 'if state["cuda"]', "random state of a GPU, which this run has none of"),
    ("training", "fused=True", "speed alone"),
    ("training", "mkdir(parents=True", UNTOLD),
    ("training", "isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)", SAME),
    ("training", '"train", disable=None, leave=False, delay=1', "the progress bar's look"),
    ("training", "except (pickle.UnpicklingError", "which error torch raises depends on the kind of damage"),
    ("training", "    peak: float =", DEFAULT),
    ("training", "    warmup: int =", DEFAULT),
    ("training", "-    floor: float =", DEFAULT),
    ("training", "    weight_decay: float =", DEFAULT),
    ("training", "    max_norm: float | None =", DEFAULT),
    ("training", "    evaluate_every: int =", DEFAULT),
    ("training", "    resume: bool =", DEFAULT),
    ("training", "    seed: int =", DEFAULT),
    ("training", "_summed_loss(logits: Tensor, targets: Tensor, ignore: int = IGNORE, label_smoothing", SAME),
    ("training", "+if step < 0", ANYWAY),
    ("training", "label_smoothing: float = 0.0,", "torch takes a negative one for none"),
    ("training", "+    count = max( 0", "the curriculum names the loss of nothing for the loss alone"),
    ("training", "+    return loss / max( 0", "the curriculum names the loss of nothing for the loss alone"),
    ("generation", "+        return self._layers[ -1]", "every layer holds as much"),
    ("recurrence", "nn.init.uniform_(parameter", UNTOLD_START),
    ("recurrence", "scores.softmax(-1)", "scores have two axes"),
    ("recurrence", "scores.masked_fill(~mask, -math.inf).softmax(-1)", "scores have two axes"),
    ("recurrence", "bias=False)", "an attention with biases is as right"),
    ("original", "1 + int(self.length[rows, winner].max())", PADDED),
    ("original", "+        score = self.score / ((5 + self.length) * 6)", FACTOR),
    ("original", "+        score = self.score / ((5 + self.length) << 6)", FACTOR),
    ("original", "+            done = done + (token == end)", SAME),
    ("original", "+            done = done ^ (token == end)", "behind an end stands padding alone"),
    ("original", "+        self.done = self.done[rows, parent] + (", SAME),
    ("original", "+        self.done = self.done[rows, parent] ^ (", "behind an end stands padding alone"),
    ("original", "+        self.done = self.done[rows, parent] | ((token == self.end) * (", SAME),
    ("original", "+        mask = causal_mask(target.shape[1], device=target.device) * padding_mask", SAME),
    ("original", "+        rank = torch.where(ended * (total", SAME),
    ("original", "+            done = done | (token <= end)", "no id below that of the end is ever said"),
    (
        "original",
        "+        self.done = self.done[rows, parent] | ((token <= self.end)",
        "no id below that of the end is ever said",
    ),
    ("original", '+        self.pre = norm >= "pre"', SAME),
    ("original", '+        self.pre = norm is "pre"', SAME),
    ("original", "if share and source_vocab", UNTOLD),
    ("original", 'pad: int = getattr(model, "pad", 0)', UNTOLD),
    ("original", "+        self.score[:, -1] = 0.0", "any one of the beams may begin"),
    ("original", "+        score = self.score / (( 6 + self.length)", "whether n counts start and end is open"),
    ("original", "+        score = self.score / (( 4 + self.length)", "whether n counts start and end is open"),
    ("original", "+        score = self.score / ((5 + self.length) / 7)", FACTOR),
    ("original", "+        score = self.score / ((5 + self.length) / 5)", FACTOR),
    ("original", "elif parameter.ndim > 1:", START),
    ("original", "rank = torch.where(ended & (total > -math.inf)", "whether an ended beam may be crowded out is open"),
    ("original", "| ((token == self.end) & (self.score > -math.inf))", "a beam that has not begun never wins"),
    ("original", "[:, -1].argmax(-1)", "the logits of one position have two axes"),
    ("original", "logits.log_softmax(-1)", "the logits of one position have two axes"),
    ("original", "score.argmax(-1)", "scores have two axes"),
    ("original", "for name in _SHARED[1:]", "one name of the shared matrix is as good as another"),
    ("original", "dict.fromkeys(names, found[0])", "one name of the shared matrix is as good as another"),
    ("original", "torch.zeros_like(source[:, 0]", "any column has the batch's length"),
    ("original", "while target.shape[1] < max_length", OPEN_LENGTH),
    ("original", "while hopes.tokens.shape[-1] < max_length", OPEN_LENGTH),
    ("redesign", "(size + self.eps)", "less than the tolerance"),
    ("redesign", "value.mean(-2", "values have four axes"),
    ("redesign", "zip(plain, moved, strict=True)", SAME),
    (
        "redesign",
        "+    def __init__(self, d_model: int, heads: int, first_layer: bool = True)",
        "the block always says it",
    ),
    ("server", "hash((seed, epoch))", "any other mixture of seed and epoch is as right"),
    ("server", "+    total = torch.stack([summed.detach().double(), (targets > IGNORE)", NO_NEGATIVE_IDS),
    ("server", "if not averaged:", SEVERAL),
    ("server", "(world if averaged else 1)", SEVERAL),
    ("server", "if parameter.requires_grad:", WRAPPED),
    ("server", "+        for parameter in []:", WRAPPED),
]


def reason(chapter: str, difference: str) -> str | None:
    """Why a mutant with this difference may live; None where it may not."""
    removed = [line for line in difference.splitlines() if line.startswith("-")]
    added = [line for line in difference.splitlines() if line.startswith("+")]
    for where, piece, why in SPARED:
        lines = added if piece.startswith("+") else removed
        if where == chapter and any(piece.removeprefix("+") in line for line in lines):
            return why
    return None
