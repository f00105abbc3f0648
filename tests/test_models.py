from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ignpx import InvalidArgumentError, models, targets
from ignpx.adapters import split_nnx
from ignpx.experiments import checkpoint
from ignpx.models import densenet, googlenet, layers, resnet, vit

FULL = dict(models.MODELS)
CIFAR = (32, 32, 3)
# Ten classes. Those of Table 7 and of All-CNN, which no paper counts, are counted by hand; the
# others are the field's: 11.17 million for the CIFAR ResNet18, 2.47 for AlexNet, 9.23 and 14.73 for
# VGG11 and VGG16 with batch norm, 6.96 for DenseNet121, 6.17 for GoogLeNet.
COUNTS = {
    ("lenet", (32, 32, 1)): 61_706,
    ("lenet", CIFAR): 62_006,
    ("resnet9", CIFAR): 6_573_130,
    ("cifar_resnet18", CIFAR): 11_173_962,
    ("resnet18", (64, 64, 3)): 11_181_642,
    ("allcnn", CIFAR): 1_620_010,
    ("alexnet", CIFAR): 2_472_266,
    ("vgg11", CIFAR): 9_225_610,
    ("vgg11_bn", CIFAR): 9_231_114,
    ("vgg16", CIFAR): 14_719_818,
    ("vgg16_bn", CIFAR): 14_728_266,
    ("densenet121", CIFAR): 6_956_298,
    ("googlenet", CIFAR): 6_166_250,
    ("vit_tiny", CIFAR): 5_362_762,
    # As published, but for the 990 classes more of 768 and of 1024 features.
    ("vit_base", (224, 224, 3)): 86_567_656 - 990 * 769,
    ("vit_large", (224, 224, 3)): 304_326_632 - 990 * 1025,
}


@pytest.fixture(params=COUNTS, scope="module", ids=lambda case: f"{case[0]}-{case[1][-1]}")
def full(request):
    """A model at full size without a number being computed, and the kernels drawn for it."""
    name, shape = request.param
    drawn = []

    def spy(key, shape, dtype):
        drawn.append(shape)
        return layers.kaiming_normal(key, shape, dtype)

    def build():
        return FULL[name](shape, 10, width=1.0, rngs=nnx.Rngs(0))

    with pytest.MonkeyPatch.context() as patch:
        for layer in (layers.Conv, layers.Conv3x3, layers.Linear):
            patch.setitem(layer.keywords, "kernel_init", spy)
        yield name, shape, nnx.eval_shape(build), drawn


def test_parameter_counts(full):
    name, shape, model, _ = full
    assert targets.size(split_nnx(model)[1]) == COUNTS[name, shape]
    logits = nnx.eval_shape(lambda model, x: model(x), model, jnp.zeros((2, *shape)))
    assert logits.shape == (2, 10)


def test_every_kernel_is_drawn_by_kaiming_normal(full):
    _, _, model, drawn = full
    params = split_nnx(model)[1]
    kernels = [
        leaf.shape
        for path, leaf in zip(targets.paths(params), jax.tree.leaves(params), strict=True)
        if path.endswith("kernel")
    ]
    assert sorted(kernels) == sorted(drawn)


def test_every_model_is_counted():
    assert {name for name, _ in COUNTS} == set(models.MODELS)


@pytest.mark.parametrize(
    "layer",
    [partial(layers.Conv, 20, 40, (3, 3)), partial(layers.Linear, 180, 40)],
    ids=["conv", "dense"],
)
def test_kaiming_normal(layer):
    """Standard deviation sqrt(2 / fan_in) and tails beyond two of them, which truncation lacks."""
    scaled = layer(rngs=nnx.Rngs(0)).kernel[...] / (2 / 180) ** 0.5
    assert float(scaled.std()) == pytest.approx(1, abs=0.05)
    assert float(abs(scaled).max()) > 2.3


@pytest.mark.parametrize("shape", [(3, 4, 6, 5), (2, 1, 3, 1), (1, 1, 1, 2)])
@jax.enable_x64(True)
def test_a_convolution_of_upsampled_images(shape):
    """Values and gradients are those of pixels repeated and convolved; in double precision."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], shape)
    kernel = jax.random.normal(keys[1], (3, 3, shape[-1], 4))
    wanted = jax.random.normal(keys[2], (shape[0], 2 * shape[1], 2 * shape[2], 4))

    def repeated(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        doubled = x.repeat(2, axis=1).repeat(2, axis=2)
        return jax.lax.conv_general_dilated(
            doubled, kernel, (1, 1), "SAME", dimension_numbers=numbers
        )

    def both(form):
        slopes = jax.grad(lambda *at: jnp.sum(wanted * form(*at)), argnums=(0, 1))
        return form(x, kernel), *slopes(x, kernel)

    for ours, theirs in zip(both(layers.upsample_convolve), both(repeated), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.max(np.abs(theirs)))


TABLE_8 = {
    "lenet": {"conv2", "fc"},
    "resnet9": {"res1", "conv3", "conv4", "res2", "classifier"},
    "resnet18": {"layer3", "layer4", "fc"},
    "cifar_resnet18": {"layer3", "layer4", "fc"},
}


def test_targets(full):
    """Those of Table 8; of a model that is not in it, its last stages and its head."""
    name, _, model, _ = full
    params = split_nnx(model)[1]
    chosen, rest = targets.partition(params, model.targets)
    if name in TABLE_8:
        assert {path.split("/")[0] for path in targets.paths(chosen)} == TABLE_8[name]
        return
    names, left = targets.paths(chosen), targets.paths(rest)
    assert {"fc/kernel", "head/kernel"} & set(names)
    assert not {"fc/kernel", "head/kernel"} & set(left)
    # What is chosen is one piece at the end: nothing that stays comes after something that goes.
    for kind in ("convs", "stages", "blocks", "transitions"):
        of_kind = [
            [int(p.split("/")[1]) for p in part if p.startswith(kind)] for part in (left, names)
        ]
        if of_kind[1]:
            assert max(of_kind[0]) < min(of_kind[1])


# With one feature a layer, and fewer layers of each kind: compilation would take most of the time.
WIDTH = 1e-3
SHALLOW = {
    "densenet121": partial(densenet.densenet121, depths=(1, 1, 1, 1)),
    "vit_tiny": partial(vit.vit_tiny, depth=1),
    "vit_base": partial(vit.vit_base, depth=1, heads=3),
    "vit_large": partial(vit.vit_large, depth=1, heads=3),
}


@pytest.fixture(params=models.MODELS, scope="module")
def small(request):
    """The name of a model, and the classifier at a small width."""
    name = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, name, SHALLOW.get(name, FULL[name]))
        patch.setattr(googlenet, "STAGES", [stage[:1] for stage in googlenet.STAGES])
        yield (
            name,
            models.create(name, input_shape=CIFAR, num_classes=10, width=WIDTH, seed=3),
        )


def test_both_modes(small):
    _, classifier = small
    # No ReLU is dead where nothing is negative.
    positive = classifier.replace(params=jax.tree.map(jnp.abs, classifier.params))
    inputs = (
        jax.random.uniform(jax.random.key(0), (4, *CIFAR)) * jnp.arange(1, 5)[:, None, None, None]
    )

    @jax.jit
    def run(classifier, inputs):
        trained = classifier.apply(classifier.params, classifier.state, inputs, train=True)
        return trained, classifier.logits(inputs)

    (trained, state), evaluated = run(positive, inputs)
    for logits in (trained, evaluated):
        assert logits.shape == (4, 10)
        assert np.all(np.isfinite(logits))
        # They depend on the input, though the last norm and ReLU may take some of a batch to zero.
        assert len(np.unique(logits, axis=0)) >= 2
    moved = [
        not np.array_equal(before, after)
        for before, after in zip(
            jax.tree.leaves(classifier.state), jax.tree.leaves(state), strict=True
        )
    ]
    # Every batch norm sees this batch; where there is none, the modes are one.
    assert all(moved)
    assert np.allclose(trained, evaluated, rtol=1e-4) == (not moved)


def test_a_new_model_of_the_architecture(small):
    _, classifier = small
    fresh = classifier.fresh(jax.random.key(9))
    assert jax.tree.structure(fresh) == jax.tree.structure(classifier)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, classifier)
    chosen, _ = targets.partition(classifier.params, (".*kernel",))
    again, _ = targets.partition(fresh.params, (".*kernel",))
    pairs = zip(jax.tree.leaves(chosen), jax.tree.leaves(again), strict=True)
    assert not any(np.array_equal(old, new) for old, new in pairs)


def test_a_checkpoint_rebuilds_it(small, tmp_path):
    name, classifier = small
    checkpoint.save(tmp_path / "c", classifier, {"model": {"name": name, "width": WIDTH}})
    loaded, _ = checkpoint.load(tmp_path / "c")
    assert jax.tree.structure(loaded) == jax.tree.structure(classifier)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(classifier), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["resnet9", "allcnn", "alexnet", "vgg16_bn"])
def test_the_width_multiplier_scales_parameters_about_quadratically(name):
    def build():
        return FULL[name](CIFAR, 10, width=0.5, rngs=nnx.Rngs(0))

    half = targets.size(split_nnx(nnx.eval_shape(build))[1])
    assert COUNTS[name, CIFAR] / half == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "lenett"}, "did you mean lenet"),
        ({"name": "lenet", "width": 0.0}, "width=0.0"),
        ({"name": "lenet", "input_shape": (8, 8, 1)}, r"input_shape=\(8, 8, 1\)"),
        ({"name": "resnet9", "input_shape": (32,)}, r"input_shape=\(32,\)"),
        ({"name": "vgg11", "input_shape": (28, 32, 1)}, "VGG needs inputs of at least 32x32"),
        ({"name": "alexnet", "input_shape": (32, 28, 1)}, "AlexNet needs inputs of at least 32"),
        ({"name": "densenet121", "input_shape": (4, 4, 1)}, "DenseNet needs inputs of at least 8"),
    ],
)
def test_bad_arguments(arguments, said):
    arguments = {"input_shape": (32, 32, 1), "num_classes": 10, "width": WIDTH, **arguments}
    with pytest.raises(InvalidArgumentError, match=said):
        models.create(**arguments)


def test_a_stem_that_there_is_not():
    with pytest.raises(InvalidArgumentError, match="stem='cifar10': must be imagenet or cifar"):
        resnet.ResNet18(CIFAR, 10, width=WIDTH, rngs=nnx.Rngs(0), stem="cifar10")
