"""What a learner sees: a line a chapter, then the one requirement to work on next."""

import io
from collections.abc import Sequence
from typing import Any, cast

import pytest
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from spec import CHAPTERS
from spec.kit import catalogue
from spec.kit.catalogue import Requirement
from spec.kit.naming import suspected
from spec.kit.story import MET, NOT_COUNTED, NOT_OFFERED, SKIPPED, UNCHECKED, UNMET, UNWRITTEN, WAITING, Story

SIGNS = {MET: "●", UNMET: "○", UNWRITTEN: "·", WAITING: "–", UNCHECKED: "?", NOT_OFFERED: "×", SKIPPED: "s"}
MOST = 8  # requirements that are listed by name where they are left out
WIDTH = 100  # of the plain text; a terminal has its own


def register(config: pytest.Config) -> None:
    """Takes the place of pytest's dots and tracebacks, unless -v asks for them."""
    if hasattr(config, "workerinput"):
        return
    quiet = config.option.verbose <= 0 and not config.option.collectonly
    if quiet:
        config.option.verbose, config.option.no_header, config.option.no_summary = -2, True, True
        if config.option.tbstyle == "auto":
            config.option.tbstyle = "no"  # nobody sees a traceback here, and pytest takes long to write one
    config.pluginmanager.register(Screen(config, quiet), "attest-screen")


class Screen:
    """Collects the stories of a run and shows them at its end."""

    def __init__(self, config: pytest.Config, quiet: bool) -> None:
        self.config, self.quiet = config, quiet
        self.stories: list[Story] = []
        self.progress: Progress | None = None
        self.seconds = 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps the story, and moves the progress line."""
        for key, value in report.user_properties:
            if key == "attest" and report.when in ("call", "setup"):
                self.stories.append(Story(**cast(dict[str, Any], value)))
                self._advance(self.stories[-1])

    def _advance(self, story: Story) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if not self.quiet or reporter is None or not reporter.isatty:
            return
        if self.progress is None:
            columns = (BarColumn(30), TextColumn("{task.description}"))
            console = Console(file=reporter._tw._file, force_terminal=True)
            self.progress = Progress(*columns, console=console, transient=True, auto_refresh=False)
            self.progress.start()
            self.progress.add_task("", total=max(reporter._numcollected, 1))
        self.progress.update(self.progress.task_ids[0], advance=1, description=f"{story.chapter}  {spoken(story.name)}")
        self.progress.refresh()

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """No dots and letters: the board says it."""
        if self.quiet and any(key == "attest" for key, _ in report.user_properties):
            return ("xfailed" if hasattr(report, "wasxfail") else report.outcome), "", ""
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The board."""
        if self.progress is not None:
            self.progress.stop()
        if self.stories and self.quiet:
            colour = bool(terminalreporter._tw.hasmarkup)
            terminalreporter.write(render(screen(self.stories, self.config), colour, terminalreporter._tw.fullwidth))


def render(content: RenderableType, colour: bool, width: int = WIDTH) -> str:
    """As text, with or without colour."""
    out = io.StringIO()
    console = Console(file=out, width=max(width, 60), force_terminal=colour, no_color=not colour, highlight=False)
    console.print(content, crop=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


class Line(Text):
    """A place or a command in one piece, however long: it is there to be clicked on or copied."""

    def __init__(self, label: str, what: str, style: str = "") -> None:
        super().__init__("  ", no_wrap=True, overflow="ignore")
        self.append(f"{label}  ", "dim").append(what, style)


def spoken(name: str) -> str:
    """A requirement's name in words."""
    return name.replace("_", " ")


def screen(stories: Sequence[Story], config: pytest.Config) -> RenderableType:
    """Chapters, the next step, and what was left out."""
    place = config.option.impl
    robust = config.option.level == "robust"
    ranked = sorted(stories, key=_rank)
    todo = [s for s in ranked if s.state not in (MET, *NOT_COUNTED) and (robust or not s.robust)]
    parts: list[RenderableType] = ["", _chapters(ranked), ""]
    if left := [s for s in ranked if s.state in NOT_COUNTED]:
        parts.append(_left_out(left))
    if todo:
        parts += [*_next(_most_useful(todo), ranked, config), ""]
    else:
        parts += [*_all_done(ranked, place, config), ""]
    return Group(*(part if isinstance(part, Line) else Padding(part, (0, 0, 0, 2)) for part in parts))


def _rank(story: Story) -> tuple[int, bool, int]:
    names = list(catalogue.requirements(story.chapter))
    return CHAPTERS.index(story.chapter), story.robust, names.index(story.name)


def _most_useful(todo: Sequence[Story]) -> Story:
    """The first that is not met; in its chapter, what is written and wrong comes before what is not written yet."""
    chapter = [story for story in todo if story.chapter == todo[0].chapter]
    return next((story for story in chapter if story.state == UNMET), chapter[0])


def _chapters(stories: Sequence[Story]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for chapter in CHAPTERS:
        mine = [story for story in stories if story.chapter == chapter]
        if not mine:
            continue
        core = [story for story in mine if not story.robust]
        counted = [story for story in core if story.state not in NOT_COUNTED]
        held = sum(story.state == MET for story in counted)
        done = held == len(counted)
        stars = "".join(
            "★" if story.state == MET else "☆" for story in mine if story.robust and story.state not in NOT_COUNTED
        )
        bar = Text()
        for story in core:
            bar.append(SIGNS[story.state], {MET: "green", UNMET: "red", UNCHECKED: "yellow"}.get(story.state, "dim"))
        count = Text(f"{held} of {len(counted)}", "green" if done and counted else "")
        table.add_row(Text(chapter, "bold"), bar, count, Text(stars, "yellow"))
    return table


def _left_out(stories: Sequence[Story]) -> RenderableType:
    heads = {UNCHECKED: "Cannot be checked", NOT_OFFERED: "Not offered", SKIPPED: "Skipped"}
    lines = Text()
    for state, head in heads.items():
        mine = [story for story in stories if story.state == state]
        if mine:
            lines.append(f"{head} ({len(mine)}, not counted): ", "yellow")
            names = [f"{story.chapter}.{story.name}" for story in mine]
            more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
            lines.append(", ".join(names[:MOST]) + more + "\n", "dim")
            for reason in dict.fromkeys(
                story.why.removeprefix("cannot be checked: ").removeprefix("not offered: ") for story in mine[:3]
            ):
                lines.append(f"  {reason}\n", "dim")
    return lines


def _next(story: Story, stories: Sequence[Story], config: pytest.Config) -> list[RenderableType]:
    requirement = catalogue.requirements(story.chapter)[story.name]
    if story.broken:
        head = (("Next  ", "dim"), (f"{story.chapter} cannot be imported", "bold"))
        why = Padding(Text(story.why, "red"), (0, 0, 1, 6))
        return [Text.assemble(*head), "", why, Line("Edit", story.edit, "cyan")]
    parts: list[RenderableType] = [Text.assemble(("Next  ", "dim"), (requirement.id, "bold")), ""]
    parts += [Padding(body, (0, 0, 0, 6)) for body in _body(requirement, story, stories)]
    command = f"pytest --impl={config.option.impl}"
    if config.option.hint:
        parts.append(Text.assemble(("Hint  ", "dim"), (requirement.hint or "none", "italic")))
    parts.append(Line("Edit", story.edit, "cyan"))
    parts.append(Line("Read", requirement.place, "cyan"))
    if not config.option.hint and requirement.hint:
        parts.append(Line("Hint", f"{command} --hint"))
    return parts


def _body(requirement: Requirement, story: Story, stories: Sequence[Story] = ()) -> list[RenderableType]:
    """Sentence, reason, case, diagnosis: the same on the screen and in a plain report."""
    body: list[RenderableType] = [Text(requirement.sentence, "bold")]
    if requirement.why:
        body += ["", Text(" ".join(requirement.why.split()))]
    body.append("")
    if story.state in (UNWRITTEN, WAITING):
        return [*body, Text(story.why, "yellow"), ""]
    case = _case(story)
    if case is not None:
        body += [case, ""]
    for diagnosis in suspected(story, stories):
        body += [Text.assemble(("This looks like: ", "bold yellow"), (diagnosis, "yellow")), ""]
    for symptom in story.symptoms:
        body += [Text(symptom, "yellow"), ""]
    return body


def _case(story: Story) -> RenderableType | None:
    rows = Table.grid(padding=(0, 2))
    if story.call:
        rows.add_row(Text("case", "dim"), Text(story.call))
    if "■" in story.expected + story.returned and "\n" in story.expected + story.returned:
        pictures = Table.grid(padding=(0, 4))
        pictures.add_row(Text("expected", "green"), Text("returned", "red"))
        pictures.add_row(Text(story.expected), Text(story.returned))
        rows.add_row("", Text("who sees whom: a row a query, ■ where it looks", "dim"))
        rows.add_row("", pictures)
    else:
        if story.returned:
            rows.add_row(Text("returned", "red"), Text(story.returned))
        if story.expected:
            rows.add_row(Text("expected", "green"), Text(story.expected))
    if story.why:
        rows.add_row("", Text(story.why, "red"))
    return rows if rows.row_count else None


def plain(requirement: Requirement, story: Story) -> str:
    """A failing requirement as plain text, for -v, editors and logs."""
    last = Text(f"Edit {story.edit}   Read {requirement.place}")
    return render(Group(*_body(requirement, story), last), colour=False)


def _all_done(stories: Sequence[Story], place: str, config: pytest.Config) -> list[RenderableType]:
    counted = [s for s in stories if s.state not in NOT_COUNTED]
    if not counted:
        return [Text("Nothing was checked.", "yellow")]
    chapters = list(dict.fromkeys(story.chapter for story in stories))
    stars = sum(s.robust and s.state != MET for s in counted)
    inside = f" in {', '.join(chapters)}" if len(chapters) < 4 else ""
    lines: list[RenderableType] = [Text.assemble(("Every requirement holds", "bold green"), (f"{inside}.", "green"))]
    following = [c for c in CHAPTERS if CHAPTERS.index(c) > CHAPTERS.index(chapters[-1])]
    command = f"pytest --impl={place}"
    if len(chapters) < len(CHAPTERS) and following:
        lines.append(Line("Next chapter:     ", f"{command} spec/{following[0]}.py"))
    if stars:
        lines.append(Line(f"{stars} {'star is' if stars == 1 else 'stars are'} open:", f"{command} --level=robust"))
    if "server" in chapters and config.option.markexpr == "":
        lines.append(Line("On many ranks:    ", f"{command} -m gpu --devices=cpu:2 spec/server.py"))
    if len(chapters) == len(CHAPTERS):
        lines.append(Line("Train it for real:", f"{command} -m shakespeare"))
        lines.append(Line("Check its shapes: ", f"mypy {place.partition('+')[0]}"))
    return lines
