"""What can become of a requirement besides being met: the exceptions that carry each verdict."""

from typing import Any

from _pytest.outcomes import Skipped


class Broken(AssertionError):
    """The implementation's chapter cannot be imported."""


class Misbehaved(AssertionError):
    """A call did something that no exercise may do: changed an input or the global state, exited, returned nothing."""


class Endless(BaseException):
    """A call did not come back; Hypothesis must not catch and replay it, so it is no Exception."""


class NotWritten(NotImplementedError):
    """The exercise does not exist yet, or its body is still the stub's."""


class CannotCheck(Skipped):
    """A same-weights requirement met parameters with other names, or what it needs is not offered."""


class NotOffered(Exception):
    """The implementation lists this option in its UNSUPPORTED."""


class Told(AssertionError):
    """A requirement that other processes ran has failed; their story comes along."""

    def __init__(self, text: str, story: dict[str, Any]) -> None:
        super().__init__(text)
        self.story = story
