"""What a machine without a network is given beside the repository, in one folder."""

import importlib.metadata
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence

from ignpx.errors import InvalidArgumentError
from on_gpu_stages import packing

DATASETS = ("cifar10", "mnist")
# Dependencies that an environment made for JAX and PyTorch may lack. TFDS's are not among them:
# packed datasets need none.
PACKAGES = ("annotated-types", "pydantic", "pydantic-core", "typing-inspection")
# Wheels for these, which pip matches by name.
PYTHON = "3.12"
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 27, 28, 34)] + ["manylinux2014_x86_64"]
WHEELS = "wheels"
MIB = 2**20


def prepare(
    root: pathlib.Path,
    folder: pathlib.Path,
    datasets: Sequence[str],
    data_dir: str | None,
) -> str:
    """Fills the folder, and says what to do with it.

    Args:
      root: of the repository.
      folder: within it, ignored by Git.
      datasets: as TFDS calls them.
      data_dir: of TFDS.
    """
    folder.mkdir(exist_ok=True)
    for name in datasets:
        path = folder / f"{name}.npz"
        if not path.exists():
            packing.pack(path, *packing.of_tfds(name, data_dir))
    for path in folder.glob("*.npz"):
        if path.stem not in datasets:
            path.unlink()
    fetch_wheels(root, folder / WHEELS)
    return instructions(root, folder)


def fetch_wheels(root: pathlib.Path, folder: pathlib.Path) -> None:
    """Downloads one wheel of each package, in the version that is installed here, and builds ours.

    The code that runs there is the repository's, but its version is that of what is installed.

    Raises:
      InvalidArgumentError: if pip finds or builds none.
    """
    shutil.rmtree(folder, ignore_errors=True)
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES]
    _pip(
        *("download", "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"),
        *(part for platform in PLATFORMS for part in ("--platform", platform)),
        *("--dest", str(folder), *wanted),
    )
    _pip("wheel", "--wheel-dir", str(folder), str(root))


def _pip(command: str, *arguments: str) -> None:
    pip = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *arguments]
    found = subprocess.run(pip, capture_output=True, text=True)
    if found.returncode:
        raise InvalidArgumentError(
            "--prepare", " ".join(pip), f"pip ends with an error: {found.stderr.strip()}"
        )


def instructions(root: pathlib.Path, folder: pathlib.Path) -> str:
    """The size of what has to be there, and the command to run."""
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    sizes = {
        "the repository": sum(
            (root / name).stat().st_size for name in tracked if (root / name).is_file()
        ),
        folder.name: sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }
    told = [f"{name}: {size / MIB:.1f} MiB" for name, size in sizes.items()]
    total = sum(sizes.values()) / MIB
    return "\n".join([*told, f"together: {total:.1f} MiB", "", command(folder.name)])


def command(folder: str) -> str:
    """What to run in a copy of the repository that has the folder; `OUT` names where to keep."""
    site = "/tmp/on_gpu_site"
    return (
        "set -o pipefail; python3 -m pip install -q --no-index --no-deps --no-compile --upgrade "
        f"--target {site} {folder}/{WHEELS}/*.whl && "
        f"PYTHONPATH=.:{site} PYTHONUNBUFFERED=1 timeout -k 5 575 python3 scripts/on_gpu.py "
        '--minutes 9 --out "${OUT:-results/gpu}" 2>&1 | tee "${OUT:-results/gpu}/log.txt"'
    )
