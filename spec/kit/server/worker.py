"""One of the processes that torchrun starts to run requirements on many devices: all run the same ones, in step.

What became of each is written down, a file a process, a line an event: `start`, `own` (what this process met) and, by
the first process, `end` (what all of them met together).
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from spec.kit import annotated, catalogue, diagnose, draw, story
from spec.kit.catalogue import Requirement
from spec.kit.plug import Implementation
from spec.kit.server import devices
from spec.kit.server.ranks import Ranks, joined
from spec.kit.story import MET, UNMET, Story
from spec.kit.trial import attempt


def main(words: list[str]) -> None:
    """Runs what request.json in the folder asks for: pairs of an implementation and a requirement's id."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--devices", type=devices.parse)
    asked.add_argument("--seconds", type=float, help="that a process waits for the others")
    asked.add_argument("--base", type=Path, help="the folder that implementations are looked for from")
    asked.add_argument("--seed", type=int)
    asked.add_argument("--shapes", action="store_true")
    asked.add_argument("--name", action="store_true", help="say which mistake it looks like")
    asked.add_argument("folder", type=Path)
    given = asked.parse_args(words)
    warnings.simplefilter("ignore")
    draw.options.shrink, draw.options.seed, annotated.wanted = False, given.seed, given.shapes
    pairs = json.loads((given.folder / "request.json").read_text())
    places = {place: Implementation(place, given.base) for place, _ in pairs}
    with joined(given.devices, given.seconds) as ranks, (given.folder / f"rank-{ranks.rank}.jsonl").open("a") as file:
        for place, id in pairs:
            chapter, _, name = id.partition(".")
            _run(catalogue.requirements(chapter)[name], places[place], ranks, file, given.name)
        ranks.gather(0)
        os._exit(0)  # all is written down; taking the process group apart under living models can hang


def _run(requirement: Requirement, impl: Implementation, ranks: Ranks, file: Any, name: bool) -> None:
    def write(event: str, told: Story | None = None) -> None:
        line = {"impl": impl.name, "id": requirement.id, "event": event, "story": told.to_dict() if told else None}
        file.write(json.dumps(line) + "\n")
        file.flush()

    write("start")
    error = attempt(requirement, impl, ranks=ranks)
    own = story.tell(requirement, impl, error, name=False)
    write("own", own)
    told = together(ranks.gather(own.to_dict()))
    if name and told.state == UNMET:
        told.looks_like = _named(requirement, impl, ranks)
    write("end", told)
    if ranks.device.type == "cuda":
        torch.cuda.empty_cache()


def together(found: list[dict[str, Any]]) -> Story:
    """The verdict of all: that of the first process which did not meet it, with its rank."""
    stories = [Story(**each) for each in found]
    unmet = [rank for rank, each in enumerate(stories) if each.state == UNMET]
    other = [rank for rank, each in enumerate(stories) if each.state != MET]
    told = stories[(unmet or other or [0])[0]]
    if unmet and len(stories) > 1:
        every = len(unmet) == len(stories)
        where = "On every rank." if every else f"On rank {', '.join(map(str, unmet))} of {len(stories)}."
        told.why = f"{told.why}\n{where}".strip()
    return told


def _named(requirement: Requirement, impl: Implementation, ranks: Ranks) -> list[str]:
    """The mistakes that explain what every process saw; all look for them in step, as they need one another."""
    found = ranks.gather(diagnose.explain(requirement, impl))
    return [name for name in found[0] if all(name in each for each in found)]


if __name__ == "__main__":
    main(sys.argv[1:])
