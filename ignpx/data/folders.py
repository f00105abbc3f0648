"""A folder of images as a dataset: a folder a class, as torchvision's `ImageFolder` has it."""

import functools
import hashlib
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ignpx.data import images
from ignpx.data.sources import Source
from ignpx.errors import DataWarning, InvalidArgumentError, near_names

# The folders of each split.
_SPLITS = {"train": ("train",), "test": ("test",), "validation": ("val", "validation")}
# What a split is called elsewhere; a class of such a name has images in it, and no folders.
_ALIKE = ("train", "training", "test", "testing", "val", "valid", "validation")


def from_folder(path: str | os.PathLike[str]) -> Source:
    """A folder of PNG and JPEG files, a folder a class.

    The folders of the classes lie in `train` and `test`, and optionally in `val` or `validation`;
    or all in the folder itself, which then has a train split only. Folders below a class belong to
    it. Classes are sorted by their names, and files by folder and name, as torchvision sorts them.
    Images are grey if all of the dataset are, and else of three channels. Files are listed now and
    read when a split is.

    Args:
      path: of the folder.

    Raises:
      InvalidArgumentError: if there is no such folder, it is not of this form, a class of the train
        split has no image, one of another split is not in the train split, a link leads to a
        folder that it lies in, or something cannot be read.

    Warns:
      DataWarning: naming files that are left out: hidden ones, those that are neither PNG nor JPEG,
        and those outside the folder of a class.
    """
    root = pathlib.Path(path)
    if not root.is_dir():
        raise InvalidArgumentError("path", str(root), "is no folder; name one with images in it")
    found = _Listing([], [])
    classes = {
        split: _classes(folder, split, found)
        for split, folder in _split_folders(root, found).items()
    }
    class_names = [one.name for one in classes["train"]]
    of_splits = {split: _labelled(ones, class_names, found) for split, ones in classes.items()}
    _check(root, class_names, of_splits["train"])
    _tell(root, found)
    every = [one.path for files in of_splits.values() for one, _ in files]
    common = functools.cache(functools.partial(images.common, every))
    splits = {
        split: images.ImageFiles(
            root.name,
            tuple(one.path for one, _ in files),
            np.array([label for _, label in files], np.int32),
            common,
        )
        for split, files in of_splits.items()
    }
    named = sorted((one.path.relative_to(root).as_posix(), one.size) for one in found.used)
    fingerprint = hashlib.sha256(repr(named).encode()).hexdigest()
    return Source(tuple(class_names), splits, root.name, fingerprint)


class _File(NamedTuple):
    path: pathlib.Path
    size: int


class _Listing(NamedTuple):
    """The files that are used, and those that are left out."""

    used: list[_File]
    left_out: list[pathlib.Path]


def _split_folders(root: pathlib.Path, found: _Listing) -> dict[str, pathlib.Path]:
    """The folder of each split: that of `train` alone if the classes are one level up."""
    train = root / "train"
    # A class may be called so, too; its folder has images, and no folders.
    if not (train.is_dir() and any(map(_is_folder, _entries(train)))):
        for entry in filter(_is_folder, _entries(root)):
            if entry.name.lower() in _ALIKE and any(map(_is_folder, _entries(pathlib.Path(entry)))):
                raise InvalidArgumentError(
                    "path",
                    entry.path,
                    "holds folders, as a split does and no class; call the splits train, test and "
                    "val",
                )
        return {"train": root}
    named = {name: split for split, names in _SPLITS.items() for name in names}
    folders: dict[str, pathlib.Path] = {}
    for entry in _entries(root):
        place = pathlib.Path(entry.path)
        if not _is_folder(entry) or entry.name not in named:
            found.left_out.append(place)
        elif named[entry.name] in folders:
            raise InvalidArgumentError(
                "path", str(root), "has the folders val and validation; keep one of them"
            )
        else:
            folders[named[entry.name]] = place
    return folders


def _classes(folder: pathlib.Path, split: str, found: _Listing) -> list[pathlib.Path]:
    """The folders of the classes, sorted by name."""
    classes: list[pathlib.Path] = []
    inside = _entries(folder)
    for entry in inside:
        place = pathlib.Path(entry.path)
        if not _is_folder(entry):
            found.left_out.append(place)
        elif not entry.name.isprintable():
            raise InvalidArgumentError(
                "path", str(place), "has a name that cannot be printed; rename it"
            )
        else:
            classes.append(place)
    if not classes:
        holds = "images without labels" if any(map(_is_image, inside)) else "no images"
        without = f"; without {folder.name}, test_share tests on a part of train"
        raise InvalidArgumentError(
            "path",
            str(folder),
            f"holds {holds}: need a folder for each class, with its images"
            + ("" if split == "train" else without),
        )
    return classes


def _labelled(
    classes: list[pathlib.Path], class_names: list[str], found: _Listing
) -> list[tuple[_File, int]]:
    """The files of a split with their labels."""
    files: list[tuple[_File, int]] = []
    folder = classes[0].parent
    above = frozenset(map(_key, (folder, folder.parent)))
    for own in classes:
        if own.name not in class_names:
            raise InvalidArgumentError(
                "path",
                str(own),
                f"is no class of the train split; {near_names(own.name, class_names)}",
            )
        walked = _walked(own, found, above)
        inside = sorted(walked, key=lambda one: (str(one.path.parent), one.path.name))
        files += [(one, class_names.index(own.name)) for one in inside]
    if not files:
        raise InvalidArgumentError("path", str(folder), "holds no PNG or JPEG images; add some")
    found.used.extend(one for one, _ in files)
    return files


def _walked(
    folder: pathlib.Path, found: _Listing, above: frozenset[tuple[int, int]]
) -> Iterator[_File]:
    """The images in a folder and below, over links too."""
    key = _key(folder)
    if key in above:
        raise InvalidArgumentError(
            "path", str(folder), "is a link to a folder that it lies in; remove the link"
        )
    for entry in _entries(folder):
        place = pathlib.Path(entry.path)
        if _is_folder(entry):
            yield from _walked(place, found, above | {key})
        elif _is_image(entry):
            yield _File(place, _stat(place).st_size)
        else:
            found.left_out.append(place)


def _entries(folder: pathlib.Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda one: one.name)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _key(folder: pathlib.Path) -> tuple[int, int]:
    """By which a folder is known, whatever link leads to it."""
    found = _stat(folder)
    return found.st_dev, found.st_ino


def _stat(path: pathlib.Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:  # such as a link to nothing
        raise _unreadable(path, error) from error


def _unreadable(path: pathlib.Path, error: OSError) -> InvalidArgumentError:
    return InvalidArgumentError(
        "path", str(path), f"cannot be read ({error.strerror}); mend it, or take it out"
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one, and not hidden."""
    return not entry.name.startswith(".") and os.path.isdir(entry.path)


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether it is an image by its name, and not hidden; of no pipe, which would be waited for."""
    named = not entry.name.startswith(".") and entry.name.lower().endswith(images.SUFFIXES)
    dangling = entry.is_symlink() and not os.path.exists(entry.path)  # an error, later
    return named and (dangling or os.path.isfile(entry.path))


def _check(root: pathlib.Path, class_names: list[str], train: list[tuple[_File, int]]) -> None:
    if len(class_names) < 2:
        raise InvalidArgumentError(
            "path", str(root), f"has one class, {class_names[0]}; need a folder for each of several"
        )
    there = {label for _, label in train}
    if empty := [name for label, name in enumerate(class_names) if label not in there]:
        raise InvalidArgumentError(
            "path",
            str(root),
            f"has no PNG or JPEG images to train on of {', '.join(empty[:10])}; add some, or "
            "remove the folder",
        )


def _tell(root: pathlib.Path, found: _Listing) -> None:
    if not found.left_out:
        return
    hidden = sum(one.name.startswith(".") for one in found.left_out)
    others = len(found.left_out) - hidden
    shown = min(found.left_out, key=lambda one: (one.name.startswith("."), str(one)))
    warnings.warn(
        f"{root}: left out are {others} files or folders that are no PNG or JPEG images in the "
        f"folder of a class, and {hidden} hidden ones, such as {shown}",
        DataWarning,
        stacklevel=3,
    )
