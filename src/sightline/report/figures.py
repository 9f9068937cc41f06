"""The charts of the report, one function each; every one returns an inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from sightline.report.comparison import Gap, Row
from sightline.report.drawing import GRID, INK, MUTED, draw
from sightline.report.palette import PROTOCOL_COLOURS, class_colour, class_marker
from sightline.report.protocols import BY_KEY

_RASTER_ABOVE_POINTS = 1500
_DETECTORS = {"pretrained": "pretrained encoder", "scratch": "from scratch"}


_SIGNS = {
    "o": '<circle cx="8" cy="8" r="6"/>',
    "^": '<path d="M8 2 14.5 14h-13z"/>',
    "s": '<path d="M2.5 2.5h11v11h-11z"/>',
    "D": '<path d="M8 1 15 8 8 15 1 8z"/>',
    "v": '<path d="M8 14 14.5 2h-13z"/>',
    "P": '<path d="M5.5 1h5v4.5H15v5h-4.5V15h-5v-4.5H1v-5h4.5z"/>',
    "X": '<path d="M4 1l4 4 4-4 3 3-4 4 4 4-3 3-4-4-4 4-3-3 4-4-4-4z"/>',
    "<": '<path d="M2 8 14 1.5v13z"/>',
    ">": '<path d="M14 8 2 1.5v13z"/>',
}


def class_sign(index: int) -> Markup:
    """Return a class's marker in its colour, as the legends show it."""
    shape = _SIGNS[class_marker(index)]
    return Markup(  # noqa: S704 (nothing of the user's is in it)
        f'<svg viewBox="0 0 16 16" fill="{class_colour(index)}" aria-hidden="true">{shape}</svg>'
    )


def accuracy_intervals(rows: Sequence[Row], metric: str, title: str) -> Markup:
    """Draw one number of every protocol with its 95 % interval."""

    def paint(axes: Axes) -> None:
        for place, row in enumerate(rows):
            number, colour = row.entry[metric], row.protocol.colour
            if number["value"] is None:
                continue
            if number["low"] is not None:
                axes.plot(
                    [number["low"], number["high"]],
                    [place] * 2,
                    color=colour,
                    lw=5,
                    alpha=0.4,
                    solid_capstyle="butt",
                )
            axes.plot(number["value"], place, "o", color=colour, ms=6, mec="white", mew=0.8)
        axes.set_yticks(range(len(rows)), [row.protocol.title for row in rows], color=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.set_title(title)

    return draw(460, 60 + 30 * len(rows), f"{title} of each protocol with its interval", paint)


def gap_intervals(gaps: Sequence[Gap]) -> Markup:
    """Draw each gap in points of accuracy with its interval around the line of no difference."""

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, lw=1)
        for place, gap in enumerate(gaps):
            number, colour = gap.accuracy, gap.better.colour
            if number["low"] is not None:
                bounds = [100 * number["low"], 100 * number["high"]]
                axes.plot(bounds, [place] * 2, color=colour, lw=5, alpha=0.4, solid_capstyle="butt")
            axes.plot(100 * number["value"], place, "o", color=colour, ms=6, mec="white", mew=0.8)
        names = [f"{gap.better.title}\n{chr(8722)} {_lower(gap.baseline.title)}" for gap in gaps]
        axes.set_yticks(range(len(gaps)), names, color=INK)
        axes.set_ylim(len(gaps) - 0.5, -0.5)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("points of accuracy")

    label = "Gaps between protocols in points of accuracy with their intervals"
    return draw(460, 70 + 44 * len(gaps), label, paint)


def roc_curves(row: Row) -> Markup:
    """Draw one protocol's ROC curves, each class against the rest."""

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (4, 3)))
        for index, (name, curve) in enumerate(row.entry["roc"].items()):
            if curve is None:
                continue
            area = row.entry["per_class"][name]["auc"]
            axes.plot(
                curve["false_positive_rate"],
                curve["true_positive_rate"],
                color=class_colour(index),
                label=f"{_shortened(name)}  {area:.3f}" if area is not None else _shortened(name),
                ls=_dashes(index),
            )
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.02)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.grid()
        legend = axes.legend(loc="lower right", title="class  AUC")
        legend.get_title().set_color(MUTED)
        axes.set_title(row.protocol.title)

    return draw(340, 320, f"ROC curves of {row.protocol.title}, each class against the rest", paint)


def learning_curves(history: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> Markup:
    """Draw accuracy per epoch of every protocol in one figure.

    Args:
        history: For each protocol, for `train` and `val`, the (epoch, accuracy) pairs.
    """

    def paint(axes: Axes) -> None:
        for key, curves in history.items():
            colour, title = PROTOCOL_COLOURS.get(key, MUTED), BY_KEY[key].title
            for split, style in (("train", (0, (3, 2))), ("val", "-")):
                if curves.get(split):
                    epochs, values = zip(*curves[split], strict=True)
                    marker = "o" if len(epochs) < 12 else ""
                    axes.plot(
                        epochs,
                        values,
                        color=colour,
                        ls=style,
                        marker=marker,
                        ms=3.5,
                        label=title if split == "val" else "_",
                        lw=2 if split == "val" else 1.2,
                    )
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(-0.02, 1.02)
        _number_epochs(axes)
        axes.set_ylabel("accuracy")
        axes.grid()
        axes.legend(loc="best")

    return draw(460, 330, "Accuracy per epoch of the protocols, training and validation", paint)


def pretraining_loss(epochs: Sequence[int], losses: Sequence[float], chance: float) -> Markup:
    """Draw the mean loss of each pretraining epoch under the level of chance."""

    def paint(axes: Axes) -> None:
        axes.axhline(chance, color=MUTED, lw=1, ls=(0, (4, 3)))
        # Clear of its line by 3 points: text that stands on a baseline touches it with its descent.
        axes.annotate(
            f"chance {chance:.2f}",
            (epochs[-1], chance),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=MUTED,
        )
        axes.plot(epochs, losses, color=PROTOCOL_COLOURS["linear"], marker=_dots(epochs), ms=4)
        axes.set_ylim(0, max(chance, *losses) * 1.15)
        _number_epochs(axes)
        axes.set_ylabel("nats")
        axes.grid()
        axes.set_title("NT-Xent loss")

    return draw(400, 270, "Pretraining loss per epoch and the loss of chance", paint)


def learning_rate(epochs: Sequence[int], rates: Sequence[float]) -> Markup:
    """Draw the learning rate of each pretraining epoch."""

    def paint(axes: Axes) -> None:
        axes.plot(epochs, rates, color=PROTOCOL_COLOURS["scratch"], marker=_dots(epochs), ms=4)
        axes.set_ylim(0, max(rates) * 1.15 or 1)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _number_epochs(axes)
        axes.grid()
        axes.set_title("Learning rate")

    return draw(400, 270, "Learning rate of each pretraining epoch", paint)


def feature_map(
    points: NDArray[np.float64], labels: NDArray[np.int64], classes: Sequence[str], title: str
) -> Markup:
    """Draw a t-SNE map, one marker an image.

    Args:
        points: Places in the map, shape (N, 2).
        labels: Class indices, shape (N,).
        classes: Class names in the order of their indices.
        title: Which encoder's features these are.
    """

    def paint(axes: Axes) -> None:
        for index in range(len(classes)):
            chosen = points[labels == index]
            axes.scatter(
                chosen[:, 0],
                chosen[:, 1],
                s=float(np.clip(4000 / max(len(points), 1), 3, 22)),
                color=class_colour(index),
                marker=class_marker(index),
                alpha=0.8,
                linewidths=0,
                # 15,000 vector markers would make the page heavy on a phone.
                rasterized=len(points) > _RASTER_ABOVE_POINTS,
            )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", adjustable="datalim")
        for spine in axes.spines.values():
            spine.set_visible(True)
            spine.set_color(GRID)
        axes.set_title(title)

    return draw(320, 330, f"t-SNE map of test features: {title}", paint)


def temperature_shares(
    curves: Mapping[float, tuple[Sequence[float], Sequence[float]]], used: float | None
) -> Markup:
    """Draw how the gradient is shared among negatives by their similarity.

    Args:
        curves: For each temperature, the similarities of negatives and their gradient shares.
        used: The temperature of this run, drawn bolder.
    """
    colours = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#6b6b6b")

    def paint(axes: Axes) -> None:
        for index, (temperature, (similarities, shares)) in enumerate(sorted(curves.items())):
            axes.plot(
                similarities,
                shares,
                color=colours[index % len(colours)],
                ls=_dashes(index),
                lw=2.6 if temperature == used else 1.6,
                label=f"{temperature:g}" + (", this run" if temperature == used else ""),
            )
        axes.set_yscale("log")
        lowest = min(s for _, values in curves.values() for s in values if s > 0)
        # Room above for the legend: every curve ends at the upper right.
        axes.set_ylim(max(lowest / 2, 1e-5), 30)
        axes.set_yticks([10.0**power for power in range(-5, 1)])
        axes.yaxis.set_major_formatter(lambda value, _: _share_label(value))
        axes.minorticks_off()
        axes.set_xlabel("cosine similarity of the negative")
        axes.set_ylabel("share of the gradient")
        axes.grid()
        legend = axes.legend(loc="upper left", title="temperature")
        legend.get_title().set_color(MUTED)

    return draw(460, 330, "Share of the gradient by similarity of the negative", paint)


def precision_recall(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str
) -> Markup:
    """Draw precision against recall of one class, one curve a detector.

    Args:
        curves: For each detector, recalls and precisions.
        title: The class.
    """

    def paint(axes: Axes) -> None:
        for index, (name, (recalls, precisions)) in enumerate(curves.items()):
            colour = PROTOCOL_COLOURS.get(name, class_colour(index))
            style = _dashes(index)
            axes.plot(recalls, precisions, color=colour, ls=style, label=_DETECTORS.get(name, name))
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.04)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        axes.grid()
        axes.legend(loc="lower left")
        axes.set_title(_shortened(title))

    return draw(340, 300, f"Precision against recall: {title}", paint)


def _number_epochs(axes: Axes) -> None:
    first, last = axes.dataLim.intervalx
    if last - first < 5:
        # MaxNLocator falls back to fractions of an epoch when there are this few.
        axes.set_xlim(first - 0.5, last + 0.5)
        axes.set_xticks(range(round(first), round(last) + 1))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")


def _dashes(index: int) -> Any:
    return ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)))[index % 4]


def _dots(epochs: Sequence[int]) -> str:
    return "o" if len(epochs) < 12 else ""


def _lower(title: str) -> str:
    return title if title[:2] == "kN" else title[0].lower() + title[1:]


def _share_label(value: float) -> str:
    shown = 100 * value
    return f"{shown:.0f} %" if shown >= 1 else f"{shown:.{-math.floor(math.log10(shown))}f} %"


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else name[:22] + "…"
