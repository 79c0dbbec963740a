"""Watches every call that a requirement makes: remembers it, and catches what no exercise may do."""

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from spec.kit import limit, returns
from spec.kit.carry import carry
from spec.kit.names import canonical
from spec.kit.returns import Contract
from spec.kit.verdict import Misbehaved, NotOffered

CAPACITY = 400  # calls; a training loop needs no complete memory
MOST_KEPT = 8  # modules of one case whose weights are kept


@dataclass
class Call:
    """One call into the implementation, and what came of it."""

    name: str
    arguments: dict[str, Any]
    result: Any = None
    live: Any = None  # the result with its graph, for the gradients
    error: BaseException | None = None
    effects: list[Any] = field(default_factory=list)  # what became of the modules and optimizers that were given
    left: list[Tensor | None] = field(default_factory=list)  # the gradients that their parameters hold afterwards


State = dict[str, Tensor]


@dataclass(eq=False)
class Made:
    """A module that the implementation built, with the weights that it started from and those it was moved to."""

    name: str
    module: nn.Module
    start: State
    moved: list[State] = field(default_factory=list)
    leader: "Made | None" = None  # the same module of another run, whose weights this one takes
    kept: bool = False
    moves: int = 0
    lacks: set[str] = field(default_factory=set)  # canonical parameters that it does without, and may

    def note(self) -> None:
        """Counts a move, and keeps where it led, for the modules that are led by this one."""
        self.moves += 1
        if self.kept:
            self.moved.append(_state(self.module))

    def moves_as_its_leader(self) -> bool:
        """Takes the leader's weights of the same move; false where nobody leads."""
        if self.leader is None or self.moves >= len(self.leader.moved):
            return False
        carry(self.leader.moved[self.moves], self.leader.module, self.module)
        return True


_made: WeakKeyDictionary[nn.Module, ref[Made]] = WeakKeyDictionary()  # a Made keeps its module alive, a log keeps both


def made_of(module: nn.Module) -> Made | None:
    """How the module was made; None where no exercise made it."""
    found = _made.get(module)
    return found() if found else None


def _state(module: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in canonical(module, module.state_dict()).items()}


@dataclass
class Log:
    """What happened in one case of one requirement."""

    calls: list[Call] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)
    case: dict[str, Any] = field(default_factory=dict)
    body: Callable[..., None] | None = None
    depth: int = 0
    seconds: float = limit.CALL_SECONDS
    leaders: list[Made] = field(default_factory=list)  # of another run: this run's modules take their weights
    kept: bool = False  # whether weights are kept, for a run that is led by this one

    def begin(self, body: Callable[..., None], case: dict[str, Any]) -> None:
        """Forgets the case before and starts the next."""
        self.calls, self.made, self.case, self.body, self.depth = [], [], case, body, 0

    def stop(self) -> None:
        """Records nothing from here on, for a process that trains for long."""
        self.depth += 1

    def crashed(self, error: BaseException | None) -> bool:
        """Whether the case ended with this error because the last call did."""
        return error is not None and bool(self.calls) and self.calls[-1].error is error

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """Calls in here are not recorded: those that a call makes itself, and those of long trainings."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def remember(self, name: str, module: nn.Module) -> None:
        """Gives a module the weights of its leader, and keeps what it starts from if others are to be led."""
        leader = self.leaders[len(self.made)] if len(self.made) < len(self.leaders) else None
        if leader is not None and leader.name == name:
            carry(leader.start, leader.module, module)
        else:
            leader = None
        kept = self.kept and len(self.made) < MOST_KEPT
        made = Made(name, module, _state(module) if kept else {}, [], leader, kept)
        self.made.append(made)
        _made[module] = ref(made)


MAY_SEED = {"train"}  # it has a seed among its settings, and resuming restores the random state


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested containers; modules and optimizers change theirs rightly and are left out."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def _snapshot(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _snapshot(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_snapshot(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


SMALL = 20_000  # numbers of a module whose weights are remembered


def _effects(arguments: dict[str, Any]) -> list[Any]:
    """What a call has left in the modules and optimizers that it was given: weights, modes, spies' lists."""
    found: list[Any] = []
    for given in arguments.values():
        value = given.module if isinstance(given, nn.parallel.DistributedDataParallel) else given
        if isinstance(value, nn.Module):
            found += map(_snapshot, _small(value))
            found.append(sorted({module.training for module in value.modules()}))  # models differ in their parts
        if isinstance(value, nn.Module | torch.optim.Optimizer):
            found += [_snapshot(kept[:20]) for kept in vars(value).values() if type(kept) is list and kept]
    return found


def _small(module: nn.Module) -> list[nn.Parameter]:
    """The module's parameters, if they are few numbers and ours: a learner's own may be kept in another form."""
    parameters = [] if made_of(module) else list(module.parameters())
    return parameters if sum(parameter.numel() for parameter in parameters) <= SMALL else []


def _gradients(arguments: dict[str, Any]) -> list[Tensor | None]:
    """The gradients that a call has left in the modules that it was given."""
    modules = [value for value in arguments.values() if isinstance(value, nn.Module)]
    return [_snapshot(parameter.grad) for module in modules for parameter in _small(module)]


class _World:
    """The global state that belongs to the learner's program, not to an exercise."""

    def __init__(self) -> None:
        self.seed, self.dtype, self.grad = torch.initial_seed(), torch.get_default_dtype(), torch.is_grad_enabled()
        self.device = torch.get_default_device()

    def restore(self, keep_seed: bool) -> str:
        """Puts everything back and says what had been changed."""
        changed = []
        if torch.get_default_dtype() != self.dtype:
            changed.append(f"the default dtype ({self.dtype} became {torch.get_default_dtype()})")
            torch.set_default_dtype(self.dtype)
        if torch.initial_seed() != self.seed and not keep_seed:
            changed.append(f"the global random seed (torch.manual_seed({torch.initial_seed()}) was called)")
            torch.default_generator.manual_seed(self.seed)
        if torch.is_grad_enabled() != self.grad:
            changed.append("whether gradients are recorded (torch.set_grad_enabled)")
            torch.set_grad_enabled(self.grad)
        if torch.get_default_device() != self.device:
            changed.append(f"the default device ({self.device} became {torch.get_default_device()})")
            torch.set_default_device(self.device)
        return " and ".join(changed)


def guarded(name: str, inside: str, log: Log, work: Callable[[], Any]) -> Any:
    """Runs `work` under the time limit and restores the world; what it changed there is said by name."""
    world, clean = _World(), False
    try:
        with limit.limit(log.seconds, name, inside):
            result = work()
        clean = True
    except SystemExit as left:
        raise Misbehaved(
            f"{name} ends the program: sys.exit() or exit() was called{returns.line_in(left, inside)}"
        ) from left
    finally:
        changed = world.restore(keep_seed=name in MAY_SEED)
        if changed and clean:
            raise Misbehaved(f"{name} changes {changed}. That belongs to the program, not to one of its parts.")
    return result


def _unchanged(name: str, before: list[tuple[str, Tensor, int]]) -> None:
    for key, tensor, version in before:
        if tensor._version != version:
            raise Misbehaved(f"{name} changes its input `{key}` in place. Whoever called it still needs it.")


def watched(
    name: str, function: Callable[..., Any], contract: Contract | None, inside: str, log: Log, method: bool = False
) -> Callable[..., Any]:
    """The same function under watch; calls that it makes itself are its own business."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if log.depth:
            return function(*args, **kwargs)
        given = args[1:] if method else args
        entry = Call(name, contract.bind(given, kwargs) if contract else dict(kwargs))
        before = [(key, tensor, tensor._version) for key, value in entry.arguments.items() for tensor in tensors(value)]
        if len(log.calls) < CAPACITY:
            log.calls.append(entry)
        try:
            with log.unwatched():
                result = guarded(name, inside, log, lambda: function(*args, **kwargs))
        except BaseException as error:
            entry.error = error
            raise
        if isinstance(result, Iterator):
            entry.result = entry.live = []
            return _overheard(result, entry, inside, log)
        entry.result, entry.live = _snapshot(result), result
        entry.effects, entry.left = _effects(entry.arguments), _gradients(entry.arguments)
        try:
            _unchanged(name, before)
            if contract is not None:
                returns.check(name, contract, entry.arguments, result)
        except Misbehaved as error:
            entry.error = error
            raise
        return result

    return call


def _overheard(items: Iterator[Any], entry: Call, inside: str, log: Log) -> Iterator[Any]:
    """The items as they are asked for, each under the time limit; they are what the call has returned."""
    while True:
        try:
            with log.unwatched():
                item = guarded(entry.name, inside, log, lambda: next(items))
        except StopIteration:
            return
        except BaseException as error:
            entry.error = error
            raise
        entry.result.append(_snapshot(item))
        yield item


def built(
    name: str,
    factory: type[Any],
    watch: dict[str, Contract | None],
    inside: str,
    log: Log,
    unsupported: frozenset[str] = frozenset(),
) -> Callable[..., Any]:
    """The class with its public methods under watch: a subclass, so that deep copies keep working."""
    methods = {
        m: _within(unsupported, c, watched(f"{name}.{m}", getattr(factory, m), c, inside, log, method=True))
        for m, c in watch.items()
    }
    names = {"__module__": factory.__module__, "__qualname__": factory.__qualname__, "__doc__": factory.__doc__}
    recorded = types.new_class(factory.__name__, (factory,), exec_body=lambda body: body.update(methods | names))

    def make(*args: Any, **kwargs: Any) -> Any:
        if log.depth:
            return recorded(*args, **kwargs)
        with log.unwatched():
            made = guarded(f"{name}(…)", inside, log, lambda: recorded(*args, **kwargs))
        if isinstance(made, nn.Module):
            log.remember(name, made)
        return made

    return make


def _within(unsupported: frozenset[str], contract: Contract | None, method: Callable[..., Any]) -> Callable[..., Any]:
    """The same method, which answers 'not offered' for an argument that UNSUPPORTED lists."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = contract.bind(args, kwargs) if contract else kwargs
        if hit := sorted(key for key, value in given.items() if key in unsupported and value is not None):
            raise NotOffered(hit[0])
        return method(self, *args, **kwargs)

    return call if unsupported else method


def offered(
    name: str, unsupported: frozenset[str], contract: Contract, factory: Callable[..., Any]
) -> Callable[..., Any]:
    """The same callable, which answers 'not offered' for what the implementation's UNSUPPORTED lists."""

    @functools.wraps(factory, updated=())
    def make(*args: Any, **kwargs: Any) -> Any:
        if name in unsupported:
            raise NotOffered(name)
        for key, value in contract.bind(args, kwargs).items():
            listed = {f"{key}={value}", f"{name}.{key}={value}"}
            if key in contract.signature.parameters and value != contract.signature.parameters[key].default:
                listed |= {key, f"{name}.{key}"}
            if hit := sorted(listed & unsupported):
                raise NotOffered(hit[0])
        return factory(*args, **kwargs)

    return make if unsupported else factory
