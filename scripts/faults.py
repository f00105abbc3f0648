"""Put faults into each command of the command line, and count what goes wrong.

    python scripts/faults.py

Kills at file operations, full and read-only disks, files that are damaged: see the modules of
`fault_injection`. A command that was disturbed has to say so in one line, keep what was there, and
give the undisturbed result when it is given again. `results/faults.json` has the counts by kind of
fault, command and fault: how many places there are for a fault, at how many it was tried, and how
often what failed (see `fault_injection.tally`). Kinds that are not asked for stay as they are.
The status is 1 if anything failed.
"""

import functools
import json
import pathlib
import sys
import tempfile
import time
from typing import Annotated, Any

import typer
from rich.console import Console

from fault_injection import client, commands, damage, disks, kills
from fault_injection.tally import Tally
from ignpx._support import logs

console = Console()
KINDS = {"kills": kills.inject, "disks": disks.inject, "damage": damage.inject}
MOST = {"kills": 12, "disks": 2, "damage": 3}


def main(
    out: Annotated[pathlib.Path, typer.Option(help="Where the counts go.")] = pathlib.Path(
        "results/faults.json"
    ),
    command: Annotated[
        list[str] | None, typer.Option(help="Only this command. May be repeated.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help=f"Only {', '.join(KINDS)}. May be repeated.")
    ] = None,
    most: Annotated[
        int | None,
        typer.Option(help=f"Places that each fault is tried at, in each command; default {MOST}."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the places of damaged bytes.")] = 0,
) -> None:
    """Injects the faults and writes the counts."""
    logs.hush()  # reading what was damaged
    tell = functools.partial(console.print, markup=False, soft_wrap=True)
    described = {"command": " ".join(["python", *sys.argv]), "seed": seed, "versions": _versions()}
    # In memory where there is such a place: most of the time would be the disk's.
    memory = pathlib.Path("/dev/shm")
    failed = 0
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = pathlib.Path(name)
        compiled = pathlib.Path(__file__).parents[1] / ".cache" / "xla" / "faults"
        with client.serving(folder, compiled) as server:
            kitchen = commands.Kitchen(server, folder / "starts")
            for label in kind or KINDS:
                begin, tally = time.perf_counter(), Tally(tell)
                for one in commands.COMMANDS:
                    if not command or one.name in command:
                        places = most or MOST[label]
                        KINDS[label](one, kitchen, folder / "root", tally, most=places, seed=seed)
                found = {**described, "totals": tally.totals(), "counts": tally.counts}
                _keep(out, label, found)
                failed += tally.failed
                tell(f"{label}: {tally.totals()} in {time.perf_counter() - begin:.0f} s; {out}")
    raise typer.Exit(failed > 0)


def _keep(out: pathlib.Path, label: str, found: dict[str, Any]) -> None:
    """Writes the counts of one kind of faults beside those of the others."""
    every = json.loads(out.read_text()) if out.exists() else {}
    every[label] = found
    ordered = {name: every[name] for name in KINDS if name in every}
    out.write_text(json.dumps(ordered, indent=1) + "\n")


def _versions() -> dict[str, str]:
    import jax
    import orbax.checkpoint as ocp

    import ignpx

    return {
        "python": sys.version.split()[0],
        "ignpx": ignpx.__version__,
        "jax": jax.__version__,
        "orbax": ocp.__version__,
    }


if __name__ == "__main__":
    typer.run(main)
