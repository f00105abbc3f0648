"""State dicts of PyTorch to our models and back, against the modules themselves."""

import functools
import warnings

import jax
import numpy as np
import pytest

from ignpx import Classifier, ConversionWarning, InvalidArgumentError, interop, models
from ignpx.data import Normalise
from ignpx.interop import Origin
from ignpx.interop.arrays import COUNTER
from ignpx.interop.names import NAMINGS
from ignpx.interop.state_dicts import _layout
from ignpx.models.googlenet import STAGES

torch = pytest.importorskip("torch", reason="PyTorch is not installed; CI has it")

import pytorch_side  # noqa: E402
import torch_models as theirs  # noqa: E402

WIDTH = 1 / 8


# Depths that names follow and that only make compilations long, and those that are compiled here.
DEEP = {
    "densenet121": ("depths", (6, 12, 24, 16), (2, 3, 2, 2)),
    "vit_tiny": ("depth", 12, 2),
    "vit_base": ("depth", 12, 2),
}


def _torchvision_densenet(depths=DEEP["densenet121"][2]):
    module = theirs.torchvision().DenseNet(4, depths, 8, num_classes=10)
    module.features.conv0 = theirs.conv3x3(3, 8)
    for name in ("norm0", "relu0", "pool0"):
        setattr(module.features, name, torch.nn.Identity())
    return module


def _torchvision_cifar_resnet():
    module = theirs.torchvision().resnet18(num_classes=10)
    module.conv1, module.maxpool = theirs.conv3x3(3, 64), torch.nn.Identity()
    return module


def _googlenet():
    rows = [[[max(1, round(n * WIDTH)) for n in row] for row in rows] for rows in STAGES]
    return theirs.GoogLeNet(rows, round(192 * WIDTH))


def _densenet(depths=DEEP["densenet121"][2]):
    return theirs.DenseNet121(depths=depths)


def _timm_vit(depth=2):
    make = theirs.timm().models.vision_transformer.VisionTransformer
    return make(img_size=8, patch_size=4, embed_dim=24, depth=depth, num_heads=3, num_classes=10)


def _torchvision_vit(depth=2):
    make = theirs.torchvision().VisionTransformer
    return make(32, 16, num_layers=depth, num_heads=12, hidden_dim=96, mlp_dim=384, num_classes=10)


# (architecture, naming, width, input shape, module)
MODULES = [
    ("lenet", "kuangliu", 1, (28, 28, 1), theirs.LeNet),
    (
        "resnet9",
        "ignpx",
        WIDTH,
        (32, 32, 3),
        lambda: pytorch_side.MODELS["resnet9"]((32, 32, 3), 10, WIDTH),
    ),
    (
        "resnet18",
        "torchvision",
        1,
        (33, 32, 3),
        lambda: theirs.torchvision().resnet18(num_classes=10),
    ),
    (
        "resnet18",
        "torchvision",
        1,
        (33, 32, 3),
        lambda: theirs.timm().create_model("resnet18", num_classes=10),
    ),
    ("cifar_resnet18", "torchvision", 1, (32, 32, 3), _torchvision_cifar_resnet),
    (
        "cifar_resnet18",
        "kuangliu",
        WIDTH,
        (16, 16, 3),
        lambda: theirs.ResNet18(theirs.Kuangliu),
    ),
    (
        "cifar_resnet18",
        "weiaicunzai",
        WIDTH,
        (16, 16, 3),
        lambda: theirs.ResNet18(theirs.Weiaicunzai),
    ),
    ("vgg11", "kuangliu", WIDTH, (32, 32, 3), lambda: theirs.vgg((1, 1, 2, 2, 2), False)),
    ("vgg16_bn", "kuangliu", WIDTH, (32, 32, 3), lambda: theirs.vgg((2, 2, 3, 3, 3), True)),
    ("allcnn", "golatkar", WIDTH, (16, 16, 3), theirs.allcnn),
    ("alexnet", "bearpaw", WIDTH, (32, 32, 3), theirs.alexnet),
    ("densenet121", "kuangliu", WIDTH, (8, 8, 3), _densenet),
    ("densenet121", "torchvision", WIDTH, (8, 8, 3), _torchvision_densenet),
    ("googlenet", "kuangliu", WIDTH, (8, 8, 3), _googlenet),
    ("vit_tiny", "timm", WIDTH, (8, 8, 3), _timm_vit),
    ("vit_base", "torchvision", WIDTH, (32, 32, 3), _torchvision_vit),
]
logits = jax.jit(Classifier.logits)


def _close(module, classifier, images):
    """Whether logits agree with those of the module in double precision.

    A sum of n products in float32 errs by about the root of n roundings of 6e-8; over the depth of
    these models 1e-5 of the largest logit is ten times that.
    """
    with torch.no_grad():
        exact = module.double()(torch.from_numpy(images.transpose(0, 3, 1, 2)).double()).numpy()
    np.testing.assert_allclose(
        logits(classifier, images), exact, rtol=0, atol=1e-5 * abs(exact).max()
    )


@pytest.mark.parametrize("case", MODULES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_a_module_comes_in_and_goes_back(case, monkeypatch):
    arch, naming, width, shape, make = case
    if arch in DEEP:
        own, (argument, _, shallow) = models.MODELS[arch], DEEP[arch]
        monkeypatch.setitem(models.MODELS, arch, functools.partial(own, **{argument: shallow}))
    module = theirs.randomised(make())
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    given = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    classifier, origin = interop.from_state_dict(given, arch=arch, input_shape=shape, width=width)
    assert (origin.naming, classifier.num_classes) == (naming, 10)
    _close(module, classifier, images)

    returned = interop.to_state_dict(classifier, origin)
    assert list(returned) == list(given)
    for name, tensor in given.items():
        assert returned[name].dtype == tensor.dtype
        assert torch.equal(returned[name], tensor)

    edited = classifier.replace(
        params=jax.tree.map(lambda leaf: leaf * 1.01 + 0.001, classifier.params)
    )
    exported = interop.to_state_dict(edited, naming)
    fresh = make().eval()
    fresh.load_state_dict(exported)
    _close(fresh, edited, images)


@pytest.mark.parametrize(
    "case", [case for case in MODULES if case[0] in DEEP], ids=lambda case: f"{case[0]}-{case[1]}"
)
def test_names_at_the_full_depth(case):
    arch, naming, width, shape, make = case
    made = jax.eval_shape(
        lambda: models.create(arch, input_shape=shape, num_classes=10, width=width)
    )
    with torch.device("meta"):
        exact = make(DEEP[arch][1]).state_dict()
    named = {one.name: one.shape for one in _layout(arch, naming, made).tensors.values()}
    assert named == {
        name: tuple(one.shape) for name, one in exact.items() if not name.endswith(COUNTER)
    }


def test_every_architecture_has_its_namings():
    assert set(interop.list_architectures()) == set(models.MODELS)
    compared = {NAMINGS[arch][naming] for arch, naming, *_ in MODULES}
    assert {one for namings in NAMINGS.values() for one in namings.values()} == compared


def lenet(**changes):
    """A state dict of LeNet with some tensors changed, or taken away by None."""
    tensors = {**theirs.LeNet().state_dict(), **changes}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def taken(state_dict, arch="lenet", input_shape=(28, 28, 1), **settings):
    return interop.from_state_dict(state_dict, arch=arch, input_shape=input_shape, **settings)


def test_all_that_does_not_fit_is_listed_at_once():
    wrong = lenet(
        **{
            "conv1.bias": None,
            "fc1.bias": None,
            "conv2.bias": torch.zeros(15),
            "extra.weight": torch.zeros(2),
            "fc2.bias": torch.zeros(84, dtype=torch.int8),
        }
    )
    with pytest.raises(InvalidArgumentError) as caught:
        taken(wrong)
    assert str(caught.value) == (
        "arch='lenet': the tensors are not those of lenet in the names of kuangliu; "
        "missing: conv1.bias, fc1.bias; surplus: extra.weight; "
        "of another shape: conv2.bias (15,) instead of (16,); "
        "no floating-point numbers, as if quantised: fc2.bias int8"
    )


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch has announced another package for it
        return torch.quantize_per_tensor(torch.ones(10), 0.1, 0, torch.qint8)


def cifar_resnet(**settings):
    module = theirs.ResNet18(theirs.Kuangliu, width=8)
    return taken(module.state_dict(), input_shape=(16, 16, 3), width=1 / 8, **settings)


def a_vgg_of_torchvision():
    with torch.device("meta"):
        module = theirs.torchvision().vgg11(num_classes=10)
    tensors = {name: np.zeros((1,) * one.ndim, "f4") for name, one in module.state_dict().items()}
    return taken(tensors, arch="vgg11", input_shape=(32, 32, 3))


REFUSED = {
    "an unknown architecture": (
        lambda: taken(lenet(), arch="resnet50"),
        "arch='resnet50': did you mean resnet",
    ),
    "channels first": (
        lambda: taken(lenet(), input_shape=(1, 28, 28)),
        r"input_shape=\(1, 28, 28\): .* channels last; give \(28, 28, 1\)",
    ),
    "another number of classes": (
        lambda: taken(lenet(), num_classes=7),
        "arch='lenet': .* the model has 10 classes, not 7; .*fc3.weight",
    ),
    "one logit": (
        lambda: taken(theirs.LeNet(classes=1).state_dict()),
        "num_classes=1: .*one logit",
    ),
    "packed": (
        lambda: taken(lenet(**{"fc3._packed_params.dtype": torch.ones(())})),
        "state_dict=11: tensors; fc3._packed_params.dtype is quantised; give the model before",
    ),
    "quantised": (
        lambda: taken(lenet(**{"fc3.bias": quantised()})),
        "state_dict=10: tensors; fc3.bias is quantised; give the model before",
    ),
    "no tensor": (
        lambda: taken(lenet(**{"fc3.bias": "zero"})),
        "state_dict=10: tensors; fc3.bias is a str and no tensor",
    ),
    "sparse": (
        lambda: taken(lenet(**{"fc3.bias": torch.zeros(10).to_sparse()})),
        "state_dict=10: tensors; fc3.bias is sparse",
    ),
    "without values": (
        lambda: taken(lenet(**{"fc3.bias": torch.zeros(10, device="meta")})),
        "state_dict=10: tensors; fc3.bias has no values",
    ),
    "of 8 bits": (
        lambda: taken(lenet(**{"fc3.bias": torch.zeros(10).to(torch.float8_e4m3fn)})),
        "state_dict=10: tensors; fc3.bias is of the dtype torch.float8_e4m3fn",
    ),
    "a module": (lambda: taken(theirs.LeNet()), "state_dict='torch_models.LeNet': must be what"),
    "the other stem": (
        lambda: cifar_resnet(arch="resnet18"),
        r"arch='resnet18': .*window \(3, 3\), not \(7, 7\); give arch='cifar_resnet18'",
    ),
    "a naming of others": (
        lambda: cifar_resnet(arch="cifar_resnet18", naming="timm"),
        "naming='timm': of cifar_resnet18: known: kuangliu, torchvision, weiaicunzai",
    ),
    "no classes": (lambda: cifar_resnet(arch="cifar_resnet18", num_classes=0), "num_classes=0"),
    "torchvision's VGG": (
        a_vgg_of_torchvision,
        "arch='vgg11': .*three dense layers after a pooling to 7x7.*from_torch",
    ),
    "an origin of another model": (
        lambda: interop.to_state_dict(taken(lenet())[0], Origin("allcnn", "golatkar")),
        "classifier=.*is no allcnn",
    ),
    "no origin": (
        lambda: interop.to_state_dict(taken(lenet())[0], None),
        "origin=None: must be what from_state_dict or load returned",
    ),
    "a naming for a model from elsewhere": (
        lambda: interop.to_state_dict(taken(lenet())[0].replace(initialise=None), "kuangliu"),
        "origin='kuangliu': a naming serves classifiers of ignpx.models.create",
    ),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_one_line_says_what_is_wrong(wrong):
    call, said = REFUSED[wrong]
    with pytest.raises(InvalidArgumentError, match=f"^{said}") as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


def test_a_prefix_is_left_out_and_comes_back():
    given = {f"module._orig_mod.{name}": tensor for name, tensor in lenet().items()}
    with pytest.warns(ConversionWarning, match="begins with 'module._orig_mod.'"):
        classifier, origin = taken(given)
    returned = interop.to_state_dict(classifier, origin)
    assert list(returned) == list(given)
    assert all(torch.equal(returned[name], given[name]) for name in given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(dtype):
    given = {name: tensor.to(dtype) for name, tensor in lenet().items()}
    classifier, origin = taken(given)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(classifier.params)} == {str(dtype)[6:]}
    returned = interop.to_state_dict(classifier, origin)
    assert all(torch.equal(returned[name], given[name]) for name in given)


def test_what_does_not_change_of_double_precision_comes_back_as_it_was():
    given = {name: tensor.double() * 1.1 for name, tensor in lenet().items()}
    with pytest.warns(ConversionWarning, match="float64"):
        classifier, origin = taken(given)
    bias = classifier.params["conv1"]["bias"]
    conv1 = {**classifier.params["conv1"], "bias": bias.at[0].set(0.5)}
    edited = classifier.replace(params={**classifier.params, "conv1": conv1})
    given["conv1.bias"][0] = 0.5
    returned = interop.to_state_dict(edited, origin)
    assert all(torch.equal(returned[name], given[name]) for name in given)


def test_a_normalisation_within_the_model_is_its_preprocessing():
    inner = {"normalize.mean": torch.full((3,), 0.5), "normalize.std": torch.full((3,), 0.25)}
    tensors = {**theirs.ResNet18(theirs.Kuangliu).state_dict(), **inner}
    build = {"arch": "cifar_resnet18", "input_shape": (16, 16, 3), "width": 1 / 8}
    classifier, origin = interop.from_state_dict(tensors, **build)
    assert classifier.preprocess == Normalise((0.5,) * 3, (0.25,) * 3)
    assert torch.equal(
        interop.to_state_dict(classifier, origin)["normalize.std"], tensors["normalize.std"]
    )
    with pytest.raises(InvalidArgumentError, match=r"^preprocess=.*normalises its images itself"):
        interop.from_state_dict(tensors, preprocess=Normalise((0.1,) * 3, (1,) * 3), **build)


def test_arrays_of_numpy_serve_as_tensors():
    given = {name: tensor.numpy() for name, tensor in lenet().items()}
    classifier, _ = taken(given, targets=("fc",))
    assert classifier.targets == ("fc",)
    np.testing.assert_array_equal(classifier.params["conv1"]["bias"], given["conv1.bias"])
