import jax
import jax.numpy as jnp
import pytest

from ignpx import InvalidArgumentError, targets

PARAMS = {
    "conv2": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)},
    "conv21": {"kernel": jnp.zeros(5)},
    "fc": {0: {"kernel": jnp.zeros(7)}, 1: {"kernel": jnp.zeros(11)}},
}


def chosen(*patterns):
    return set(targets.paths(targets.partition(PARAMS, patterns)[0]))


def test_a_pattern_ends_at_a_slash():
    assert chosen("conv2") == {"conv2/bias", "conv2/kernel"}
    assert chosen("fc/1") == {"fc/1/kernel"}
    assert chosen(".*/kernel") == {"conv2/kernel", "conv21/kernel", "fc/0/kernel", "fc/1/kernel"}
    assert chosen("conv2", "fc") == {"conv2/bias", "conv2/kernel", "fc/0/kernel", "fc/1/kernel"}


def test_combine_is_the_inverse_of_partition():
    selected, rest = targets.partition(PARAMS, ("fc",))
    assert targets.size(selected) == 18
    assert targets.size(rest) == 14
    combined = targets.combine(selected, rest)
    assert jax.tree.structure(combined) == jax.tree.structure(PARAMS)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (combined, PARAMS)), strict=True))


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (("conv3",), "matches no parameter; there are conv2/bias"),
        (("conv2", "nothing"), "'nothing'"),
        (("conv(",), "not a regular expression"),
        ((), "at least one pattern"),
    ],
)
def test_bad_patterns(patterns, said):
    with pytest.raises(InvalidArgumentError, match="targets") as caught:
        targets.partition(PARAMS, patterns)
    assert said in str(caught.value)
