"""The folder of a run: settings, losses as CSV and for TensorBoard, checkpoints, samples, a plot."""

import contextlib
import csv
import dataclasses
import datetime
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

COLUMNS = ("step", "train_loss", "validation_loss", "rate", "tokens_per_second", "seconds")


def new(runs: Path, impl: str, task: str) -> Path:
    """The name of a folder that is not there yet: when, what, by whom."""
    place = "".join(letter if letter.isalnum() else "-" for letter in Path(impl).stem).strip("-")
    name = f"{datetime.datetime.now():%Y-%m-%d-%H%M%S}-{task}-{place}"
    return runs / name


def describe(folder: Path, settings: Any, devices: str) -> None:
    """Writes down what is run, on what, and in which state the code is."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "settings": dataclasses.asdict(settings),
        "devices": devices,
        "device": torch.cuda.get_device_name() if devices.startswith("cuda") else platform.processor() or "CPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "git": revision(),
        "started": datetime.datetime.now().isoformat(timespec="seconds"),
    }
    (folder / "settings.json").write_text(json.dumps(told, indent=2) + "\n")


def revision() -> str:
    """The commit that is checked out, and whether something was changed since; empty outside of git."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit}{' and changes' if changed.strip() else ''}"


class Journal:
    """Appends a row a step; what a killed run had written past its last checkpoint is dropped when it resumes."""

    def __init__(self, folder: Path, step: int, wandb: bool, settings: Any) -> None:
        self.file = folder / "log.csv"
        before = [row for row in read(self.file) if int(row["step"]) <= step] if step else []
        with self.file.open("w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows(before)
        self.board: Any = None
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self.wandb: Any = None
        if wandb:
            import wandb as service

            self.wandb = service.init(
                project="attest", dir=str(folder), name=folder.name, id=folder.name, resume="allow",
                config=dataclasses.asdict(settings), mode=os.environ.get("WANDB_MODE", "online"),
            )  # fmt: skip

    def add(self, **row: float | int | None) -> None:
        """A row; floats in full, so that two runs can be compared bit by bit."""
        with self.file.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow({k: "" if v is None else repr(v) for k, v in row.items()})
        known = {name: value for name, value in row.items() if value is not None and name != "step"}
        if self.board is not None:
            for name, value in known.items():
                self.board.add_scalar(name, value, row["step"])
        if self.wandb is not None:
            self.wandb.log(known, step=row["step"])

    def close(self) -> None:
        """Everything is on the disk."""
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def read(file: Path) -> list[dict[str, str]]:
    """The rows of a log; one that was cut off in the middle is left out."""
    if not file.exists():
        return []
    with file.open(newline="") as opened:
        return [row for row in csv.DictReader(opened) if None not in row.values() and row["step"]]


def losses(folder: Path, column: str = "train_loss") -> list[float]:
    """One column of a run's log, where it has a value."""
    return [float(row[column]) for row in read(folder / "log.csv") if row[column]]


def plot(folder: Path, lines: dict[str, float]) -> Path | None:
    """Draws the losses over the steps as loss.png; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    rows = read(folder / "log.csv")
    for column, label in (("train_loss", "training"), ("validation_loss", "validation")):
        points = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        axes.plot(*zip(*points, strict=True), label=label, lw=1 if column == "train_loss" else 2) if points else None
    for name, value in lines.items():
        axes.axhline(value, color="grey", lw=0.7, ls="--")
        axes.annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    axes.set(xlabel="step", ylabel="loss in nats per token", title=folder.name)
    axes.legend()
    figure.savefig(folder / "loss.png", dpi=120)
    return folder / "loss.png"
