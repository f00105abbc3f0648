"""Memory that ran out, of a device or of the host."""

import jax


def exhausted(error: BaseException | None) -> str | None:
    """One line for a user: what ran out and what to lower; None for errors of another kind."""
    while error is not None:
        said = str(error).strip().partition("\n")[0]
        of_device = isinstance(error, jax.errors.JaxRuntimeError)
        if isinstance(error, MemoryError) or (of_device and "RESOURCE_EXHAUSTED" in said):
            return (
                f"memory ran out ({said or type(error).__name__}); lower what is held at once: "
                "training.batch_size of a config, batch_size, microbatch, samples or "
                "classes_at_once of a method (--set microbatch=8)"
            )
        error = error.__cause__
    return None
