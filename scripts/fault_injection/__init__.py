"""The parts of `scripts/faults.py`: faults put into commands, and what came of them."""
