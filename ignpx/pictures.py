"""Pictures of what a method made and what it did, as matplotlib figures."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ignpx import selection

FORGET = "#c8443c"
RETAIN = "#4a6fa5"
BEFORE = "#b8bec8"


def prototypes(
    images: np.ndarray, class_names: Sequence[str], forget: Sequence[int] = (), *, rows: int = 4
) -> Figure:
    """A grid of prototypes, one column a class, the forget classes marked.

    Args:
      images: `(K, n, H, W, channels)`, any scale; each image is stretched to its own range.
      class_names: K names.
      forget: indices of the forget classes.
      rows: prototypes shown of each class.
    """
    classes, count = images.shape[:2]
    rows = min(rows, count)
    figure = Figure(figsize=(0.9 * classes + 0.2, 0.9 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, classes, squeeze=False)
    for column in range(classes):
        marked = column in forget
        title = class_names[column] + (" (forget)" if marked else "")
        axes[0, column].set_title(title, fontsize=8, color=FORGET if marked else "black")
        for row in range(rows):
            axis = axes[row, column]
            _show(axis, images[column, row])
            for spine in axis.spines.values():
                spine.set(color=FORGET if marked else "white", linewidth=1.5)
    return figure


def class_accuracies(
    accuracies: dict[str, Sequence[float]], class_names: Sequence[str], forget: Sequence[int] = ()
) -> Figure:
    """Bars of the accuracy of each class, one series a model, the forget classes marked.

    Args:
      accuracies: name of a model to its K accuracies, each in 0 to 1.
      class_names: K names.
      forget: indices of the forget classes.
    """
    classes = len(class_names)
    figure = Figure(figsize=(max(5.0, 0.7 * classes + 1), 3.2), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(accuracies)
    palette = [BEFORE, RETAIN, "#7fa66f", "#c9a24a"]
    for index, (name, values) in enumerate(accuracies.items()):
        places = np.arange(classes) + (index - (len(accuracies) - 1) / 2) * width
        axis.bar(places, 100 * np.asarray(values), width, label=name, color=palette[index % 4])
    axis.set(ylabel="test accuracy (%)", ylim=(0, 105), xlim=(-0.6, classes - 0.4))
    axis.set_xticks(range(classes), class_names, rotation=0 if classes <= 10 else 90)
    for index in forget:
        axis.get_xticklabels()[index].set(color=FORGET, fontweight="bold")
        axis.axvspan(index - 0.5, index + 0.5, color=FORGET, alpha=0.08, linewidth=0)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=len(accuracies), frameon=False, fontsize=9)
    return figure


def coverage_curve(
    log_ratios: np.ndarray, total: int, log_alpha: float, coverage: tuple[float, float]
) -> Figure:
    """The share of parameters that each alpha selects, with the wanted range and the alpha found.

    Args:
      log_ratios: `(P,)` natural logarithms of the ratio of the target parameters, see
        `ignpx.selection.log_ratio`.
      total: number of parameters that the share is of.
      log_alpha: the calibrated threshold, natural logarithm.
      coverage: the range that was asked for.
    """
    finite = np.sort(log_ratios[np.abs(log_ratios) < selection.ALWAYS])
    always = np.count_nonzero(log_ratios >= selection.ALWAYS)
    selected = (np.arange(len(finite), 0, -1) + always) / total
    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.axhspan(100 * coverage[0], 100 * coverage[1], color=FORGET, alpha=0.15, linewidth=0)
    axis.plot(finite / np.log(10), 100 * selected, color=RETAIN)
    axis.axvline(log_alpha / np.log(10), color=FORGET, linewidth=1)
    axis.set(xlabel=r"$\log_{10}\,\alpha$", ylabel="parameters selected (%)", yscale="log")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _show(axis: object, image: np.ndarray) -> None:
    low, high = image.min(), image.max()
    stretched = (image - low) / max(high - low, 1e-6)
    axis.imshow(stretched.squeeze(), cmap="gray", vmin=0, vmax=1)  # type: ignore[attr-defined]
    axis.set(xticks=[], yticks=[])  # type: ignore[attr-defined]
