"""Pictures of what a method made and what it did, as matplotlib figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ignpx import selection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORGET = "#c8443c"
RETAIN = "#4a6fa5"
BEFORE = "#b8bec8"
WHITE = "#ffffff"


def prototypes(
    images: np.ndarray, class_names: Sequence[str], forget: Sequence[int] = (), *, rows: int = 4
) -> "Figure":
    """A grid of prototypes, one column a class, the forget classes marked.

    Args:
      images: `(K, n, H, W, channels)`, any scale; each image is stretched to its own range.
      class_names: K names.
      forget: indices of the forget classes.
      rows: prototypes shown of each class.
    """
    classes = len(images)
    marked = [index in forget for index in range(classes)]
    # One picture, and not one in each of many axes, which take most of a second to draw.
    grid = np.concatenate(
        [
            np.concatenate([_framed(image, FORGET if mark else WHITE) for image in column[:rows]])
            for column, mark in zip(images, marked, strict=True)
        ],
        axis=1,
    )
    height, width = grid.shape[0] * classes / grid.shape[1], classes
    title = 0.3  # of the height of a cell
    figure = _figure(0.9 * width, 0.9 * (height + title))
    axis = figure.add_axes((0, 0, 1, height / (height + title)))
    axis.imshow(grid, extent=(0, width, 0, height), aspect="auto")
    axis.set_axis_off()
    for place, (name, mark) in enumerate(zip(class_names, marked, strict=True)):
        text, color = (f"{name} (forget)", FORGET) if mark else (name, "black")
        axis.text(place + 0.5, height, text, fontsize=8, color=color, ha="center", va="bottom")
    return figure


def grad_cam(
    images: np.ndarray, maps: Mapping[str, np.ndarray], titles: Sequence[str] = ()
) -> "Figure":
    """Images with the maps of several models over them: one column an image, one row a model.

    Args:
      images: `(n, H, W, channels)`, any scale; the first row, as they are.
      maps: name of a model to its maps `(n, h, w)`, at least 0; each map is stretched to its own
        largest value, and one that is 0 everywhere stays without colour.
      titles: n titles, the labels of the images for example.
    """
    columns, rows = len(images), 1 + len(maps)
    figure = _figure(1.1 * columns + 1, 1.15 * rows + 0.2, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for place, image in enumerate(images):
        height, width = image.shape[:2]
        extent = (0, width, 0, height)
        for row, axis in enumerate(axes[:, place]):
            axis.imshow(_stretched(image), extent=extent)
            if row:
                shown = list(maps.values())[row - 1][place]
                share = shown / max(shown.max(), 1e-12)
                axis.imshow(
                    share,
                    extent=extent,
                    cmap="inferno",
                    vmin=0,
                    vmax=1,
                    alpha=0.65 * (share > 0),
                    interpolation="bilinear",
                )
    for axis, name in zip(axes[:, 0], ["image", *maps], strict=True):
        axis.set_ylabel(name, fontsize=13)
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title, fontsize=13)
    return figure


def embedding(
    coordinates: np.ndarray,
    labels: np.ndarray,
    synthetic: np.ndarray,
    class_names: Sequence[str],
    forget: Sequence[int] = (),
) -> "Figure":
    """Samples in the plane, by class: real ones as dots, synthetic ones as crosses.

    Args:
      coordinates: `(N, 2)`.
      labels: `(N,)` class ids.
      synthetic: `(N,)` bool.
      class_names: names of all classes.
      forget: indices of the forget classes, which are drawn last and marked in the legend.
    """
    from matplotlib import colormaps

    figure = _figure(6.2, 4.6, layout="constrained")
    axis = figure.subplots()
    present = np.unique(labels)
    others = [index for index in present if index not in forget]
    # Without the red, which marks the forget classes.
    few = [color for place, color in enumerate(colormaps["tab10"].colors) if place != 3]  # type: ignore[attr-defined]
    many = colormaps["nipy_spectral"](np.linspace(0, 1, len(others)))
    colors = dict(zip(others, few if len(others) <= len(few) else many, strict=False))
    for index in [*others, *(index for index in present if index in forget)]:
        own = labels == index
        gone = index in forget
        color = colors.get(index, FORGET)
        name = f"{class_names[index]} (forget)" if gone else class_names[index]
        size = 22 if gone else 12
        x, y = coordinates[own & ~synthetic].T
        axis.scatter(x, y, s=size, color=color, label=name, lw=0)
        x, y = coordinates[own & synthetic].T
        axis.scatter(x, y, s=45, color=color, marker="x", lw=1.2)
    if synthetic.any():
        axis.scatter([], [], s=45, color="black", marker="x", lw=1.2, label="synthetic")
    axis.set(xticks=[], yticks=[])
    axis.spines[["top", "right"]].set_visible(False)
    columns = 1 if len(present) <= 20 else -(-len(present) // 20)
    figure.legend(loc="outside right upper", frameon=False, fontsize=11, ncols=columns)
    return figure


def roc(false_positives: np.ndarray, true_positives: np.ndarray, others: int) -> "Figure":
    """The ROC curve of a membership attack, both axes logarithmic (Carlini et al. 2022).

    Args:
      false_positives: `(T,)` rates, rising.
      true_positives: `(T,)` rates.
      others: samples that are no members. A rate of false positives below the inverse of their
        number cannot be measured, and is left out.
    """
    figure = _figure(4.6, 4.2, layout="constrained")
    axis = figure.subplots()
    smallest = 1 / others
    shown = false_positives >= smallest * (1 - 1e-9)
    axis.plot([smallest, 1], [smallest, 1], color=BEFORE, linewidth=1, label="chance")
    axis.plot(false_positives[shown], true_positives[shown], color=FORGET, label="attack")
    axis.set(xscale="log", yscale="log", xlim=(smallest, 1), ylim=(smallest, 1.1))
    axis.set(xlabel="rate of false positives", ylabel="rate of true positives")
    note = f"{others:,} samples that are no members"
    if others < 1000:
        note += "; a rate of 0.1 % needs 1,000"
    axis.set_title(note, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right", fontsize=9)
    return figure


def _attacked(
    arrays: Mapping[str, np.ndarray], class_names: Sequence[str], forget: Sequence[int]
) -> "Figure":
    return roc(arrays["false_positives"], arrays["true_positives"], int(arrays["others"]))


def _inverted(
    arrays: Mapping[str, np.ndarray], class_names: Sequence[str], forget: Sequence[int]
) -> "Figure":
    return prototypes(arrays["images"], class_names, forget)


def _looked_at(
    arrays: Mapping[str, np.ndarray], class_names: Sequence[str], forget: Sequence[int]
) -> "Figure":
    maps = {
        name.removeprefix("maps_"): array
        for name, array in arrays.items()
        if name.startswith("maps_")
    }
    return grad_cam(arrays["images"], maps, [class_names[label] for label in arrays["labels"]])


def _embedded(
    arrays: Mapping[str, np.ndarray], class_names: Sequence[str], forget: Sequence[int]
) -> "Figure":
    places, labels, made = (arrays[name] for name in ("coordinates", "labels", "synthetic"))
    return embedding(places, labels, made, class_names, forget)


# Of the arrays of a measurement, by its name: `(arrays, class_names, forget)`.
PICTURES: dict[
    str, Callable[[Mapping[str, np.ndarray], Sequence[str], Sequence[int]], "Figure"]
] = {
    "features": _embedded,
    "grad-cam": _looked_at,
    "inversion": _inverted,
    "lira": _attacked,
    "resynthesis": _inverted,
}


def class_accuracies(
    accuracies: dict[str, Sequence[float]], class_names: Sequence[str], forget: Sequence[int] = ()
) -> "Figure":
    """Bars of the accuracy of each class, one series a model, the forget classes marked.

    Args:
      accuracies: name of a model to its K accuracies, each in 0 to 1.
      class_names: K names.
      forget: indices of the forget classes.
    """
    classes = len(class_names)
    figure = _figure(max(5.0, 0.7 * classes + 1), 3.2, layout="constrained")
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
) -> "Figure":
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
    figure = _figure(5.5, 3.2, layout="constrained")
    axis = figure.subplots()
    axis.axhspan(100 * coverage[0], 100 * coverage[1], color=FORGET, alpha=0.15, linewidth=0)
    axis.plot(finite / np.log(10), 100 * selected, color=RETAIN)
    axis.axvline(log_alpha / np.log(10), color=FORGET, linewidth=1)
    axis.set(xlabel=r"$\log_{10}\,\alpha$", ylabel="parameters selected (%)", yscale="log")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _figure(width: float, height: float, **options: Any) -> "Figure":
    from matplotlib.figure import Figure  # slow to import, and needed where something is drawn

    return Figure(figsize=(width, height), **options)


def _framed(image: np.ndarray, color: str) -> np.ndarray:
    """An image `(H, W, 1 or more)` as RGB in uint8, with a line of this colour and space around."""
    line = max(1, image.shape[0] // 32)
    framed = _stretched(image)
    for around in (color, WHITE):
        rows, columns = (size + 2 * line for size in framed.shape[:2])
        canvas = np.tile(np.frombuffer(bytes.fromhex(around[1:]), np.uint8), (rows, columns, 1))
        canvas[line:-line, line:-line] = framed
        framed = canvas
    return framed


def _stretched(image: np.ndarray) -> np.ndarray:
    """An image `(H, W, 1 or more)` as RGB in uint8, its own range stretched to 0 to 255."""
    low, high = float(image.min()), float(image.max())
    stretched = np.round(255 * (image[..., :3] - low) / max(high - low, 1e-6)).astype(np.uint8)
    return np.broadcast_to(stretched, (*image.shape[:2], 3))
