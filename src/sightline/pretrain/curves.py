"""The history of a pretraining as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.pretrain.watch import EpochRecord
from sightline.training.history import write_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINE, _QUIET = "#2f6fb0", "#6b7280"


def write_history(history: Sequence[EpochRecord], path: Path) -> None:
    """Write one line an epoch, with the values of `EpochRecord`; the loss in nats."""
    write_rows(path, [asdict(record) for record in history])


def write_steps(losses: Sequence[float], path: Path) -> None:
    """Write one line a step: step, counted from 1, and loss (nats)."""
    rows = [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]
    write_rows(path, rows)


def draw_curves(history: Sequence[EpochRecord], chance_loss: float, path: Path) -> None:
    """Draw loss and learning rate over the epochs, and the loss of batches without signal."""
    figure_of_curves(history, chance_loss).savefig(path, dpi=150)


def figure_of_curves(history: Sequence[EpochRecord], chance_loss: float) -> Figure:
    """Return the figure that `draw_curves` saves; `chance_loss` is in nats."""
    # Of several processes one draws, and only at the end.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [record.epoch for record in history]
    marker = "o" if len(epochs) < 30 else ""
    panels = (
        ("NT-Xent loss, nats", [record.loss for record in history]),
        ("Learning rate", [record.learning_rate for record in history]),
    )
    for place, (title, values) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 2, place)
        axes.plot(epochs, values, color=_LINE, linewidth=1.8, marker=marker, markersize=3.5)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("Epoch", color=_QUIET)
        axes.set_ylim(0, 1.08 * max(values))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
        axes.tick_params(colors=_QUIET, length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#d1d5db")
    loss_axes = figure.axes[0]
    loss_axes.set_ylim(0, 1.08 * max(chance_loss, *(record.loss for record in history)))
    loss_axes.axhline(chance_loss, color=_QUIET, linewidth=1, linestyle="--")
    loss_axes.annotate(
        f"no signal: {chance_loss:.2f}",
        (epochs[-1], chance_loss),
        textcoords="offset points",
        xytext=(0, -11),
        ha="right",
        color=_QUIET,
        fontsize=9,
    )
    return figure
