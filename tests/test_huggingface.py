"""Folders of Hugging Face, against timm's modules under the names of transformers.

With transformers installed, they are compared with its own modules, too.
"""

import json
import re

import jax
import numpy as np
import pytest

from ignpx import (
    Changes,
    Classifier,
    ConversionWarning,
    InvalidArgumentError,
    interop,
    methods,
    steps,
    targets,
)
from ignpx.data import Normalise

torch = pytest.importorskip("torch", reason="PyTorch is not installed; CI has it")

import safetensors.torch  # noqa: E402

import torch_models as theirs  # noqa: E402
from command import run  # noqa: E402

logits = jax.jit(Classifier.logits)
LABELS = {str(at): name for at, name in enumerate(("cat", "dog", "tabby cat", "ship", "truck"))}
VIT = {
    "architectures": ["ViTForImageClassification"],
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "layer_norm_eps": 1e-6,
    "image_size": 8,
    "patch_size": 4,
    "id2label": LABELS,
}
RESNET = {
    "architectures": ["ResNetForImageClassification"],
    "hidden_sizes": [8, 16, 16, 24],
    "depths": [2, 1, 1, 1],
    "layer_type": "basic",
    "hidden_act": "silu",
    "id2label": LABELS,
}
BOTTLENECK = {
    **RESNET,
    "hidden_sizes": [16, 32, 32, 32],
    "depths": [1, 2, 1, 1],
    "layer_type": "bottleneck",
    "hidden_act": "relu",
}
PREPROCESSOR = {
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
    "size": {"shortest_edge": 32},
}


def _vit():
    make = theirs.timm().models.vision_transformer.VisionTransformer
    return make(8, 4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=1.5, num_classes=5)


def _bottleneck():
    module = theirs.timm().models.resnet
    return module.ResNet(module.Bottleneck, (1, 2, 1, 1), num_classes=5, channels=(4, 8, 8, 8))


def _resnet():
    """Of basic blocks. In transformers the activation is that of the stem and after each sum."""
    module = theirs.timm().models.resnet
    made = module.ResNet(module.BasicBlock, (2, 1, 1, 1), num_classes=5, channels=(8, 16, 16, 24))
    made.act1 = torch.nn.SiLU()
    for part in made.modules():
        if isinstance(part, module.BasicBlock):
            part.act2 = torch.nn.SiLU()
    return made


# Name -> (config, timm's module).
MODELS = {
    "vit": (VIT, _vit),
    "resnet": (RESNET, _resnet),
    "bottleneck": (BOTTLENECK, _bottleneck),
}
# Timm's names to those of transformers.
NAMES = [
    (r"^(cls_token)$", r"vit.embeddings.\1"),
    (r"^pos_embed$", "vit.embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
    (r"^norm\.", "vit.layernorm."),
    (r"^head\.", "classifier."),
    (r"^blocks\.", "vit.encoder.layer."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^conv1\.", "resnet.embedder.embedder.convolution."),
    (r"^bn1\.", "resnet.embedder.embedder.normalization."),
    (r"^fc\.", "classifier.1."),
    (r"^layer(\d)\.(\d)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}."),
    (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
    (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
]


def renamed(tensors):
    """Timm's state dict under the names of transformers."""
    parted = {}
    for name, one in tensors.items():
        if ".qkv." in name:
            parts = zip(("query", "key", "value"), one.chunk(3), strict=True)
            parted |= {name.replace("qkv", part): rows for part, rows in parts}
        else:
            parted[name] = one
    found = {}
    for name, one in parted.items():
        for pattern, said in NAMES:
            name = re.sub(pattern, said, name)
        found[name] = one.contiguous().clone()
    return found


def written(folder, config, tensors, **files):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "any", **config}))
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def tensors_of(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.fixture
def vit(tmp_path):
    """A folder with a vision transformer."""
    tensors = renamed(theirs.randomised(_vit()).state_dict())
    return written(tmp_path / "vit", VIT, tensors, preprocessor_config=PREPROCESSOR)


@pytest.mark.parametrize(("crops", "side"), [(True, 24), (False, 32)])
def test_an_image_is_as_large_as_the_part_that_is_cropped(tmp_path, crops, side):
    crop = {"do_center_crop": crops, "crop_size": {"height": 24, "width": 24}}
    tensors = renamed(theirs.randomised(_resnet()).state_dict())
    source = written(tmp_path, RESNET, tensors, preprocessor_config={**PREPROCESSOR, **crop})
    assert interop.load(source)[0].input_shape == (3, side, side)


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_comes_in_and_goes_back(tmp_path, name):
    config, make = MODELS[name]
    module = theirs.randomised(make())
    given = renamed(module.state_dict())
    preprocessor = PREPROCESSOR if name == "vit" else {**PREPROCESSOR, "do_normalize": False}
    source = written(tmp_path / "in", config, given, preprocessor_config=preprocessor)
    (source / "training_args.bin").write_bytes(b"more")
    classifier, origin = interop.load(source)
    side = 8 if name == "vit" else 32
    assert classifier.input_shape == (3, side, side)
    mean, std = (0.5, 0.25) if name == "vit" else (0.0, 1.0)
    assert classifier.preprocess == interop.ChannelsFirst(Normalise((mean,) * 3, (std,) * 3))
    assert origin.labels == tuple(LABELS.values())

    images = np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32)
    with torch.no_grad():
        exact = module.double()(torch.from_numpy(images).double()).numpy()
    atol = 1e-5 * abs(exact).max()  # as in `test_interop`
    np.testing.assert_allclose(logits(classifier, images), exact, rtol=0, atol=atol)

    doubled = classifier.replace(params=jax.tree.map(lambda leaf: 2 * leaf, classifier.params))
    target = tmp_path / "out"
    with pytest.warns(UserWarning, match=r"^training_args\.bin of the folder"):
        interop.save(target, doubled, origin)
    assert sorted(one.name for one in target.iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    for kept in ("config.json", "preprocessor_config.json"):
        assert (target / kept).read_bytes() == (source / kept).read_bytes()
    found = tensors_of(target)
    assert found.keys() == given.keys()
    state = {path.replace("/", ".") for path in targets.paths(classifier.state)}
    for key, one in given.items():
        fixed = key in state or key.endswith("num_batches_tracked")
        assert torch.equal(found[key], one if fixed else 2 * one), key


def test_half_precision_is_kept(tmp_path, vit):
    half = {name: one.bfloat16() for name, one in tensors_of(vit).items()}
    folder = written(tmp_path / "half", VIT, half, preprocessor_config=PREPROCESSOR)
    classifier, origin = interop.load(folder)
    interop.save(tmp_path / "new", classifier, origin)
    found = tensors_of(tmp_path / "new")
    assert all(one.dtype == torch.bfloat16 for one in found.values())
    assert all(torch.equal(found[name], one) for name, one in half.items())


@pytest.fixture
def halving(monkeypatch):
    """A method that halves the last layer."""

    def halve(state, key, prepared):
        params = dict(state.classifier.params)
        params["classifier"] = jax.tree.map(lambda leaf: leaf / 2, params["classifier"])
        return state.replace(classifier=state.classifier.replace(params=params)), None

    def factory():
        return steps.chain(steps.Step("halve", halve, changes=Changes.TARGETS))

    build = methods.build
    monkeypatch.setattr(
        methods, "build", lambda name, settings: factory() if name == "halve" else build(name, {})
    )


def test_a_folder_forgets_a_class_by_its_name(tmp_path, vit, halving):
    command = ["forget-torch", vit, "--forget", "tabby cat", "--method", "halve", "--out"]
    status, said = run(*command, tmp_path / "new")
    assert status == 0, said
    assert "ViTForImageClassification in the names of transformers, inputs 3x8x8, 5 classes" in said
    before, after = tensors_of(vit), tensors_of(tmp_path / "new")
    for name, one in before.items():
        factor = 0.5 if name.startswith("classifier.") else 1
        assert torch.equal(after[name], factor * one)
    for more, expected in (
        ([], "is there already"),
        (
            ["--overwrite", "--forget", "tiger"],
            "forget='tiger': is no class; give the number of one",
        ),
        (["--overwrite", "--forget", 5], "is not a class; the classes are 0 to 4"),
        (["--overwrite", "--arch", "vit_tiny"], "leave arch out"),
        (["--overwrite", "--naming", "timm"], "leave naming out"),
    ):
        status, said = run(*command, tmp_path / "new", *more)
        assert (status, expected in said) == (2, True), said
    (tmp_path / "new" / "optimizer.pt").write_bytes(b"")
    status, said = run(*command, tmp_path / "new", "--overwrite")
    assert (status, "holds optimizer.pt, which would be lost" in said) == (2, True), said


def without(tensors, *names):
    return {name: one for name, one in tensors.items() if name not in names}


FIVE = torch.zeros(5)
# What is wrong -> (changes of the config, of the tensors, settings, what is said).
REFUSED = {
    "another architecture": (
        {"architectures": ["BertForMaskedLM"]},
        {},
        {},
        "is a folder of BertForMaskedLM: .*ResNetFor.*, ViTFor.*from_torch",
    ),
    "no architecture": ({"architectures": []}, {}, {}, "is a folder of no architecture"),
    "tensors that do not fit": (
        {},
        {
            "vit.layernorm.bias": None,
            "vit.pooler.dense.bias": FIVE,
            "classifier.bias": torch.zeros(4),
        },
        {},
        "model.safetensors does not have the tensors of config.json; missing: vit.layernorm.bias; "
        r"surplus: vit.pooler.dense.bias; of another shape: classifier.bias \(4,\) instead of",
    ),
    "of 8 bits": (
        {},
        {"classifier.bias": FIVE.to(torch.int8)},
        {},
        "no floating-point numbers, as if quantised: classifier.bias int8",
    ),
    "other names of classes": (
        {"id2label": {"0": "cat", "1": "dog"}},
        {},
        {},
        "has 5 classes by classifier.weight, and 2 by id2label; mend id2label",
    ),
    "names of some classes": ({"id2label": {"1": "dog"}}, {}, {}, "id2label must have the keys 0"),
    "another number of classes": (
        {},
        {},
        {"num_classes": 7},
        "has 5 classes by classifier.weight, and 7 by num_classes",
    ),
    "deeper": ({"num_hidden_layers": 3}, {}, {}, "missing: vit.encoder.layer.2.*"),
    "an unknown activation": (
        {"hidden_act": "sin"},
        {},
        {},
        "hidden_act: Input should be 'gelu'",
    ),
    "heads that do not fit": ({"num_attention_heads": 3}, {}, {}, "must be a multiple of"),
    "no size": ({"hidden_size": -1}, {}, {}, "hidden_size: Input should be greater"),
    "several labels": (
        {"problem_type": "multi_label_classification"},
        {},
        {},
        "problem_type: Input should be 'single_label_classification'",
    ),
    "quantised": ({"quantization_config": {"bits": 4}}, {}, {}, "is quantised"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_one_line_says_what_is_wrong(tmp_path, vit, wrong):
    config, changes, settings, said = REFUSED[wrong]
    tensors = {**tensors_of(vit), **changes}
    given = {name: one for name, one in tensors.items() if one is not None}
    folder = written(tmp_path / "wrong", {**VIT, **config}, given)
    with pytest.raises(InvalidArgumentError, match=f"^path='{folder}.*{said}") as caught:
        interop.load(folder, **settings)
    assert len(str(caught.value).splitlines()) == 1


def test_files_and_arguments_that_cannot_be_used(tmp_path, vit):
    (vit / "preprocessor_config.json").unlink()
    with pytest.warns(ConversionWarning, match=r"preprocessor_config\.json does not say the mean"):
        classifier, origin = interop.load(vit)
    assert classifier.bounds is None
    for settings, said in (
        ({"input_shape": (8, 8)}, r"input_shape=\(8, 8\): must be \(H, W, channels\)"),
        ({"input_shape": (16, 16, 3)}, r"config.json says \(8, 8, 3\); leave input_shape out"),
        ({"arch": "vit_tiny"}, "arch='vit_tiny': .*leave arch out"),
        ({"preprocess": Normalise((0.5,) * 2, (0.5,) * 2)}, "preprocess=.*has 2 channels, and"),
    ):
        with pytest.raises(InvalidArgumentError, match=said):
            interop.load(vit, **settings)
    (tmp_path / "file").write_text("")
    for place, said in (
        (tmp_path / "file", "is a file; name a folder"),
        (vit, "is there already"),
        (tmp_path / "no" / "new", "there is no folder"),
    ):
        with pytest.raises(InvalidArgumentError, match=said):
            interop.save(place, classifier, origin)
    (vit / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(InvalidArgumentError, match=r"model\.safetensors.*is damaged"):
        interop.load(vit)
    (vit / "model.safetensors").unlink()
    with pytest.raises(InvalidArgumentError, match=r"in model\.safetensors, and has none; write"):
        interop.load(vit)
    (vit / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InvalidArgumentError, match="and has only a part in each file; write it"):
        interop.load(vit)
    (vit / "config.json").write_text("{")
    with pytest.raises(InvalidArgumentError, match=r"config\.json.*cannot be used"):
        interop.load(vit)
    (vit / "config.json").unlink()
    with pytest.raises(InvalidArgumentError, match="is no file; a folder of Hugging Face has"):
        interop.load(vit)


# Name -> (config, changes of it), compared with transformers' own modules.
OWN = {
    "vit": (VIT, {"qkv_bias": False, "image_size": [8, 12], "patch_size": [4, 2]}),
    "resnet": (RESNET, {"downsample_in_first_stage": True, "num_channels": 1}),
    "bottleneck": (BOTTLENECK, {"downsample_in_bottleneck": True, "hidden_act": "gelu_new"}),
}


@pytest.mark.parametrize("name", OWN)
def test_logits_are_those_of_transformers(tmp_path, name):
    """Also of what comes back, which transformers reads."""
    theirs.torchvision()
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config, changes = OWN[name]
    kind = getattr(transformers, config["architectures"][0])
    own = {key: one for key, one in {**config, **changes}.items() if key != "architectures"}
    module = theirs.randomised(kind(kind.config_class(**own)))
    module.save_pretrained(tmp_path / "in")
    (tmp_path / "in" / "preprocessor_config.json").write_text(
        json.dumps({**PREPROCESSOR, "image_mean": 0.5, "image_std": 0.25})
    )
    classifier, origin = interop.load(tmp_path / "in")
    images = np.random.default_rng(0).normal(size=(2, *classifier.input_shape)).astype(np.float32)
    with torch.no_grad():
        exact = module.double()(torch.from_numpy(images).double()).logits.numpy()
    atol = 1e-5 * abs(exact).max()
    np.testing.assert_allclose(logits(classifier, images), exact, rtol=0, atol=atol)
    interop.save(tmp_path / "out", classifier, origin)
    read = kind.from_pretrained(tmp_path / "out").state_dict()
    assert all(
        torch.equal(read[key], one.to(read[key])) for key, one in module.state_dict().items()
    )
