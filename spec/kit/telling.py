"""What a parameter's name tells of its use, in the many ways in which learners name the same thing."""

import re

SHIFT = re.compile(r"b(_\w+|[qkvo\d])?|.*(beta|bias|shift|offset).*", re.IGNORECASE)
OUTPUT = re.compile(r"(w_?)?o|.*(out|proj).*", re.IGNORECASE)
GATES = {  # of an LSTM, in torch's order, and what else learners call them
    "i": ("input", "in_gate", "update"),
    "f": ("forget",),
    "g": ("cand", "cell", "major", "memory", "new", "tilde"),
    "o": ("out",),
}
ASKED = {"q": ("query", "queries"), "k": ("key",), "v": ("val",)}
SAYS_NOTHING = re.compile("gates?|linear|lin|layer|hidden|fc|weights?|2")
ONE_LETTER = re.compile(r"(?<![a-z])w?([qkv])(?![a-z])")


def place_of(name: str) -> tuple[str, str]:
    """Where a layer stands and what it is called there: `attention` and `to_q` for `attention.to_q.weight`."""
    named = [part for part in name.lower().split(".") if part not in ("weight", "bias", "")]
    while named and named[-1].isdigit():
        named.pop()
    return ".".join(named[:-1]), named[-1] if named else ""


def gate(name: str) -> str:
    """i, f, g or o: `forget_gate.0.weight` is f, `W_xc` is g; empty where the name does not tell."""
    own = place_of(name)[1]
    letters = re.findall("[ifgco]", SAYS_NOTHING.sub("", own))
    return _word(own, GATES) or (letters[-1].replace("c", "g") if letters else "")


def asked(name: str) -> str:
    """q, k, v or o: `key` is k, `W_Q` is q, `out_proj` is o; empty where the name does not tell."""
    own = place_of(name)[1]
    letters = ONE_LETTER.findall(own.replace("_", " "))
    return _word(own, ASKED) or (letters[0] if letters else "o" if OUTPUT.fullmatch(own) else "")


def _word(own: str, words: dict[str, tuple[str, ...]]) -> str:
    return next((letter for letter, known in words.items() if any(word in own for word in known)), "")
