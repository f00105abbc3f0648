"""Modules of PyTorch as they are: what can be done with them in JAX."""

import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ignpx
from closeness import assert_sums_close
from ignpx import Classifier, InvalidArgumentError, UnlearningWarning, _xla, interop, targets
from ignpx.data import Normalise
from ignpx.losses import cross_entropy

torch = pytest.importorskip("torch", reason="PyTorch is not installed; CI has it")

import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402

import torch_models as theirs  # noqa: E402
from test_edits import NO_FLOAT16  # noqa: E402

logits = jax.jit(Classifier.logits)
# Compiles large graphs in half the time.
UNOPTIMISED = {"xla_backend_optimization_level": 0}
unoptimised = jax.jit(Classifier.logits, compiler_options=UNOPTIMISED)


class ConvNeXt(nn.Module):
    """As a user writes it: depthwise convolutions, layer norms over channels, layer scale."""

    def __init__(self, width=8, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mean((-2, -1))))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.gamma = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x):
        y = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


class MobileNet(nn.Module):
    """Inverted residuals with batch norm, ReLU6 and a squeeze, and dropout before the head."""

    def __init__(self, width=8, classes=10):
        super().__init__()
        self.stem = nn.Sequential(
            theirs.conv3x3(3, width, 2), nn.BatchNorm2d(width), nn.ReLU6(True)
        )
        self.layers = nn.Sequential(
            nn.Conv2d(width, 3 * width, 1, bias=False),
            nn.BatchNorm2d(3 * width),
            nn.ReLU6(inplace=True),
            nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width, bias=False),
            nn.BatchNorm2d(3 * width),
            nn.Hardswish(inplace=True),
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(3 * width, 3 * width, 1), nn.Hardsigmoid()
        )
        self.project = nn.Conv2d(3 * width, width, 1)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(width, classes))

    def forward(self, x):
        x = self.stem(x)
        y = self.layers(x)
        x = x + self.project(y * self.squeeze(y))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Encoder(nn.Module):
    """PyTorch's own transformer, which has a faster path for evaluation."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.layer(self.patches(x).flatten(2).mT).mean(1))


def _vit():
    model = theirs.timm().models.vision_transformer.VisionTransformer
    return model(8, 4, embed_dim=16, depth=2, num_heads=2, num_classes=10)


def _convnext():
    model = theirs.timm().models.convnext.ConvNeXt
    return model(3, 10, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), use_grn=True, ls_init_value=0.5)


MODULES = {
    "convnext": (ConvNeXt, 16),
    "mobilenet": (MobileNet, 16),
    "encoder": (Encoder, 8),
    "timm's vit": (_vit, 8),
    "timm's convnext": (_convnext, 32),
}


@pytest.fixture(scope="module")
def convnext():
    return theirs.randomised(ConvNeXt())


@pytest.fixture(scope="module")
def mobilenet():
    return theirs.randomised(MobileNet())


def taken(module, side=16, **fields):
    return interop.from_torch(module, input_shape=(3, side, side), num_classes=10, **fields)


def drawn(count=3, side=16, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3, side, side)).astype(np.float32)


def said_by(module, images):
    with torch.no_grad():
        return module(torch.tensor(images)).numpy()


@pytest.mark.parametrize("name", MODULES)
def test_logits_are_those_of_the_module(name):
    make, side = MODULES[name]
    module = theirs.randomised(make()).train()
    classifier = taken(module, side)
    assert all(part.training for part in module.modules()), "the module is as it was"
    returned = interop.to_state_dict(classifier)
    assert list(returned) == list(module.state_dict())
    assert all(torch.equal(returned[key], one) for key, one in module.state_dict().items())

    edited = classifier.replace(params=jax.tree.map(lambda leaf: 1.1 * leaf, classifier.params))
    images = drawn(side=side)
    for one in (classifier, edited):
        module.load_state_dict(interop.to_state_dict(one))
        expected = said_by(module.eval(), images)
        found = logits(one, images)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_gradients_are_those_of_the_module(mobilenet):
    """Of inputs and parameters, and a batch of another size than that of the export."""
    module, images = mobilenet, drawn(5)
    given = torch.from_numpy(images).requires_grad_()
    (module(given) ** 2).sum().backward()
    classifier = taken(module)

    def total(params, inputs):
        return jnp.sum(jnp.square(classifier.replace(params=params).logits(inputs)))

    params, inputs = jax.jit(jax.grad(total, argnums=(0, 1)))(classifier.params, images)
    pairs = [(inputs, given.grad), (params["project"]["weight"], module.project.weight.grad)]
    pairs.append((params["layers"]["3"]["weight"], module.layers[3].weight.grad))
    for ours, exact in pairs:
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-4 * float(exact.abs().max()))
    module.zero_grad()


def test_ignp_runs_and_the_module_takes_the_result(mobilenet):
    preprocess = interop.ChannelsFirst(Normalise((0.5,) * 3, (0.25,) * 3))
    classifier = taken(mobilenet, targets=("project", "head"), preprocess=preprocess)
    assert classifier.bounds[0].shape == (3, 1, 1)
    assert len(classifier.with_statistics(drawn())[1]) == 3
    method = ignpx.methods.ignp(samples=4, held_out=4, steps=30)
    request = ignpx.Request.classes([3], num_classes=10)
    # The weights are random, so that the outcome may be anything: `unlearn` would judge it.
    edited, info = method.unlearn(classifier, request, jax.random.key(0))
    assert info.prototypes.inputs.shape[2:] == (3, 16, 16)
    assert float(info.prototypes.roughness.mean()) < 0.9
    fresh = MobileNet()
    fresh.load_state_dict(interop.to_state_dict(edited))
    before, after = mobilenet.state_dict(), fresh.state_dict()
    changed = {key for key, one in after.items() if not torch.equal(one, before[key])}
    assert changed
    assert {key.split(".")[0] for key in changed} <= {"project", "head"}
    images = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), np.uint8)
    inputs = np.asarray(preprocess(images))
    expected = said_by(fresh.eval(), inputs)
    np.testing.assert_allclose(logits(edited, inputs), expected, rtol=0, atol=1e-4)


def test_sensitivities_are_read_from_the_program(convnext):
    """Dense kernels and plain convolutions factor; all classes are mapped at once."""
    classifier = taken(convnext)
    sample = jax.ShapeDtypeStruct((1, 3, 16, 16), jnp.float32)

    def loss(params, inputs):
        return cross_entropy(classifier.replace(params=params).logits(inputs), jnp.zeros(1, int))[0]

    plan = _xla.factors.read(loss, classifier.params, sample)
    factored = {targets.paths(classifier.params)[tap.leaf] for tap in plan.taps}
    assert {"stem/weight", "head/weight", "blocks/0/mlp/0/weight"} <= factored


def test_two_of_one_architecture_share_their_compilation(mobilenet, compilations):
    images = drawn()
    one = taken(mobilenet)
    logits(one, images).block_until_ready()
    compilations.clear()
    other = taken(theirs.randomised(MobileNet(), seed=1))
    found = logits(other, images)
    assert not compilations
    assert np.abs(found - logits(one, images)).max() > 0.01
    assert pickle.loads(pickle.dumps(other.apply)) == one.apply


class Tied(nn.Module):
    """Two names for one weight, a buffer that is not saved, and one that is not used."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(6, 6, bias=False)
        self.two = nn.Linear(6, 6, bias=False)
        self.two.weight = self.one.weight
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("shift", torch.arange(6.0), persistent=False)
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x):
        return self.two(torch.relu(self.one(x) + self.shift)) * torch.tensor([2.0])


def test_tied_weights_stay_one():
    module = Tied()
    classifier = interop.from_torch(module, input_shape=(6,), num_classes=6)
    assert targets.paths(classifier.params) == ["one/weight"]
    doubled = classifier.replace(params=jax.tree.map(lambda leaf: 2 * leaf, classifier.params))
    fresh = Tied()
    fresh.load_state_dict(interop.to_state_dict(doubled))
    assert fresh.two.weight is fresh.one.weight
    assert torch.equal(fresh.one.weight, 2 * module.one.weight)
    assert fresh.count == 3
    x = np.ones((2, 6), np.float32)
    assert_sums_close(doubled.logits(x), said_by(fresh, x), 1e-5)


@pytest.mark.parametrize("dtype", [pytest.param(torch.float16, marks=NO_FLOAT16), torch.bfloat16])
def test_half_precision_is_kept(mobilenet, dtype):
    module = theirs.randomised(MobileNet()).to(dtype)
    classifier = taken(module)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(classifier.params)} == {str(dtype)[6:]}
    returned = interop.to_state_dict(classifier)
    assert all(torch.equal(returned[key], one) for key, one in module.state_dict().items())
    # JAX computes with inputs of float32, as PyTorch does with the module in float32.
    images = drawn()
    expected = said_by(module.float(), images)
    np.testing.assert_allclose(logits(classifier, images), expected, rtol=0, atol=1e-4)


def test_a_method_that_trains_says_that_the_module_does_not(mobilenet, convnext):
    classifier = taken(mobilenet)
    with pytest.warns(UnlearningWarning, match="stays in evaluation mode"):
        jax.eval_shape(lambda: classifier.observed(drawn(), train=True))
    for one in (classifier, taken(convnext)):  # three batch norms; three convolutions
        assert len(one.observed(drawn(), train=False)[2]) == 3


def test_a_head_of_as_many_features_as_classes_is_refused_as_any_other():
    """Its kernel has the classes first, as PyTorch's have."""
    for features in (5, 4):
        module = nn.Sequential(nn.Flatten(), nn.Linear(12, features), nn.Linear(features, 4))
        classifier = interop.from_torch(module, input_shape=(3, 2, 2), num_classes=4)
        with pytest.raises(InvalidArgumentError, match="classes as its last axis"):
            classifier.head()


def test_gkt_generates_no_images_with_channels_first():
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    classifier = interop.from_torch(module, input_shape=(3, 8, 8), num_classes=4)
    request = ignpx.Request.classes([0], 4)
    with pytest.raises(InvalidArgumentError, match="has channels first"):
        ignpx.unlearn(ignpx.methods.gkt(), classifier, request, jax.random.key(0))


def test_a_file_of_a_module_is_written(tmp_path, convnext):
    interop.save(tmp_path / "new.pt", taken(convnext))
    found = torch.load(tmp_path / "new.pt", weights_only=True)
    assert all(torch.equal(found[key], one) for key, one in convnext.state_dict().items())


class Wrapped(nn.Module):
    """A function of a dense layer's outputs."""

    def __init__(self, function):
        super().__init__()
        self.dense, self.function = nn.Linear(6, 4), function

    def forward(self, x):
        return self.function(self.dense(x))


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch gives them up, and says so
        return torch.ao.nn.quantized.dynamic.Linear(6, 4)


REFUSED = {
    "quantised": (quantised(), "module=.*is quantised; give the model before its quantisation"),
    "unknown operations": (
        Wrapped(lambda x: torch.fft.fft(x).real + torch.special.i0(x)),
        r"module=.*operations that are not translated: aten\._fft_\w+, .*aten\.\w*i0",
    ),
    "control flow on data": (
        Wrapped(lambda x: x if x.sum() > 0 else -x),
        "module=.*control flow that depends on the values",
    ),
    "a batch of one size": (
        Wrapped(lambda x: x.reshape(2, 4)),
        "module=.*(on the size of the batch|cannot be exported)",
    ),
    "two outputs": (Wrapped(lambda x: (x, x)), "module=.*has 1 inputs and 2 outputs; wrap it"),
    "an error of its own": (
        Wrapped(lambda x: x.reshape(-1, 5)),
        r"module=.*cannot be exported for inputs of the shape \(6,\)",
    ),
    "another number of classes": (
        Wrapped(lambda x: x[:, :3]),
        r"num_classes=4: the model returns logits of shape \(2, 3\)",
    ),
    "no module": (lambda x: x, "module=.*must be a module of PyTorch"),
    "no values": (nn.Linear(6, 4, device="meta"), "module=.*weight has no values"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_one_line_says_what_is_wrong(wrong):
    module, said = REFUSED[wrong]
    with pytest.raises(InvalidArgumentError, match=f"^{said}") as caught:
        interop.from_torch(module, input_shape=(6,), num_classes=4)
    assert len(str(caught.value).splitlines()) == 1
