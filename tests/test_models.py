import jax
import pytest

from ignpx import InvalidArgumentError, models, targets

# Counted by hand from Table 7; the CIFAR ResNet18 is the field's well-known 11.17 million.
COUNTS = {
    ("lenet", (32, 32, 1)): 61_706,
    ("lenet", (32, 32, 3)): 62_006,
    ("resnet9", (32, 32, 3)): 6_573_130,
    ("cifar_resnet18", (32, 32, 3)): 11_173_962,
    ("resnet18", (64, 64, 3)): 11_181_642,
}


@pytest.mark.parametrize(("name", "shape"), COUNTS)
def test_parameter_counts(name, shape):
    classifier = models.create(name, input_shape=shape, num_classes=10)
    assert targets.size(classifier.params) == COUNTS[name, shape]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lenet", {"conv2", "fc"}),
        ("resnet9", {"res1", "conv3", "conv4", "res2", "classifier"}),
        ("resnet18", {"layer3", "layer4", "fc"}),
        ("cifar_resnet18", {"layer3", "layer4", "fc"}),
    ],
)
def test_targets_are_those_of_table_8(name, expected):
    classifier = models.create(name, input_shape=(32, 32, 3), num_classes=10, width=0.1)
    chosen, _ = targets.partition(classifier.params, classifier.targets)
    assert {path.split("/")[0] for path in targets.paths(chosen)} == expected


@pytest.mark.parametrize("name", models.MODELS)
def test_kaiming_normal(name):
    """Standard deviation sqrt(2 / fan_in) and tails beyond two of them, which truncation lacks."""
    classifier = models.create(name, input_shape=(32, 32, 3), num_classes=10)
    kernels = [
        leaf
        for path, leaf in zip(
            targets.paths(classifier.params), jax.tree.leaves(classifier.params), strict=True
        )
        if path.endswith("kernel") and leaf.size > 5000
    ]
    assert kernels
    for kernel in kernels:
        fan_in = kernel.size // kernel.shape[-1]
        scaled = kernel / (2 / fan_in) ** 0.5
        assert float(scaled.std()) == pytest.approx(1, abs=0.05)
        assert float(abs(scaled).max()) > 2.3


def test_the_width_multiplier_scales_parameters_about_quadratically():
    full, half = (
        targets.size(
            models.create("resnet9", input_shape=(32, 32, 3), num_classes=10, width=width).params
        )
        for width in (1.0, 0.5)
    )
    assert full / half == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "lenett"}, "did you mean lenet"),
        ({"name": "lenet", "width": 0.0}, "width=0.0"),
        ({"name": "lenet", "input_shape": (8, 8, 1)}, r"input_shape=\(8, 8, 1\)"),
        ({"name": "resnet9", "input_shape": (32,)}, r"input_shape=\(32,\)"),
    ],
)
def test_bad_arguments(arguments, said):
    arguments = {"input_shape": (32, 32, 1), "num_classes": 10, **arguments}
    with pytest.raises(InvalidArgumentError, match=said):
        models.create(**arguments)
