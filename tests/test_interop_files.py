"""Files of weights: read without running anything, and written as they came."""

import collections
import os
import pickle
import struct
import sys
import warnings

import jax
import numpy as np
import pytest

from command import run
from ignpx import ConversionWarning, InvalidArgumentError, interop, models

torch = pytest.importorskip("torch", reason="PyTorch is not installed; CI has it")

import safetensors.torch  # noqa: E402

import from_pytorch  # noqa: E402
import torch_models as theirs  # noqa: E402

LENET = {"arch": "lenet", "input_shape": (28, 28, 1)}


@pytest.fixture(scope="module")
def tensors():
    return {name: one.clone() for name, one in theirs.LeNet().state_dict().items()}


def edited(classifier):
    return classifier.replace(params=jax.tree.map(lambda leaf: 2 * leaf, classifier.params))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_file_comes_in_and_goes_back(tmp_path, tensors, suffix):
    path, new = tmp_path / f"model{suffix}", tmp_path / f"new{suffix}"
    tensors = {name: one.half() for name, one in tensors.items()}
    if suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path, {"format": "pt", "epoch": "3"})
    else:
        torch.save(collections.OrderedDict(tensors), path)
    classifier, origin = interop.load(path, **LENET)
    interop.save(new, classifier, origin)
    interop.save(path, edited(classifier), origin, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, new.name])
    for file, factor in ((new, 1), (path, 2)):
        if suffix == ".safetensors":
            found = safetensors.torch.load_file(file)
            with safetensors.safe_open(file, "pt") as opened:
                assert opened.metadata() == {"format": "pt", "epoch": "3"}
        else:
            found = torch.load(file, weights_only=True)
            assert list(found) == list(tensors)
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == torch.float16
            assert torch.equal(found[name], factor * tensor)


def test_a_safetensors_file_of_bfloat16(tmp_path, tensors):
    tensors = {name: one.bfloat16() for name, one in tensors.items()}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    classifier, origin = interop.load(tmp_path / "a.safetensors", **LENET)
    interop.save(tmp_path / "b.safetensors", classifier, origin)
    found = safetensors.torch.load_file(tmp_path / "b.safetensors")
    assert all(torch.equal(found[name], one) for name, one in tensors.items())


def test_a_checkpoint_keeps_what_has_no_tensors(tmp_path, tensors):
    path = tmp_path / "checkpoint.pth.tar"
    state = {"state": {0: {"momentum_buffer": torch.ones(2)}}}
    whole = {"epoch": 7, "acc": 0.5, "net": tensors, "optimizer": state, "ema": dict(tensors)}
    torch.save(whole, path)
    classifier, origin = interop.load(path, **LENET)
    with pytest.warns(ConversionWarning, match="^optimizer, ema of the checkpoint are left out"):
        interop.save(tmp_path / "new.pth.tar", classifier, origin)
    found = torch.load(tmp_path / "new.pth.tar", weights_only=True)
    assert found.keys() == {"epoch", "acc", "net"}
    assert (found["epoch"], found["acc"]) == (7, 0.5)
    assert all(torch.equal(found["net"][name], one) for name, one in tensors.items())


def test_a_model_that_was_trained_here_is_written_in_a_naming(tmp_path):
    classifier = models.create("lenet", input_shape=(28, 28, 1), num_classes=10)
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / f"ours{suffix}"
        interop.save(path, classifier, "kuangliu")
        back, _ = interop.load(path, **LENET)
        jax.tree.map(np.testing.assert_array_equal, back.params, classifier.params)


class Evil:
    """A pickle of it writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def _evil(path, tensors, protocol):
    with open(path, "wb") as file:
        pickle.dump({**tensors, "more": Evil(path.with_name("written"))}, file, protocol)


def _header(path, length, text=b""):
    path.write_bytes(struct.pack("<Q", length) + text)


def _cut(path, tensors, save):
    save(tensors, path)
    path.write_bytes(path.read_bytes()[:2000])


def _torch_save(value, path):
    torch.save(value, path)


DAMAGED = {
    "evil.pt": (
        lambda path, tensors: torch.save({"more": Evil(path.with_name("written"))}, path),
        "holds posix.system and not tensors alone, .*nothing of it was run",
    ),
    "old_evil.pt": (lambda path, tensors: _evil(path, {}, 2), "holds posix.system"),
    "module.pth": (
        lambda path, tensors: torch.save(theirs.LeNet(), path),
        "holds torch_models.LeNet and not tensors alone",
    ),
    "cut.pt": (lambda path, tensors: _cut(path, tensors, _torch_save), "cannot be read"),
    "empty.pt": (lambda path, tensors: path.write_bytes(b""), "cannot be read"),
    "text.pt": (lambda path, tensors: path.write_text("no weights"), "cannot be read|holds code"),
    "tensor.pt": (lambda path, tensors: torch.save(torch.ones(3), path), "holds a Tensor, not a"),
    "none.pt": (lambda path, tensors: None, "is no file"),
    "model.onnx": (lambda path, tensors: path.write_text(""), "must end in one of .safetensors"),
    "cut.safetensors": (
        lambda path, tensors: _cut(path, tensors, safetensors.torch.save_file),
        "is damaged or no safetensors file",
    ),
    "huge.safetensors": (
        lambda path, tensors: _header(path, 2**60, b"{}"),
        "is damaged or no safetensors file",
    ),
    "long.safetensors": (
        lambda path, tensors: _header(path, 90, b'{"a":'),
        "is damaged or no safetensors file",
    ),
    "empty.safetensors": (
        lambda path, tensors: path.write_bytes(b""),
        "is damaged or no safetensors file",
    ),
    "outside.safetensors": (
        lambda path, tensors: _header(
            path, 61, b'{"fc1.bias":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'[:61]
        ),
        "is damaged or no safetensors file",
    ),
    "eight.safetensors": (
        lambda path, tensors: safetensors.torch.save_file(
            {"fc1.bias": torch.ones(2).to(torch.float8_e4m3fn)}, path
        ),
        "has dtypes that cannot be computed with: fc1.bias F8_E4M3",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_one_line_says_what_is_wrong_with_a_file(tmp_path, tensors, name):
    make, said = DAMAGED[name]
    path = tmp_path / name
    make(path, tensors)
    with pytest.raises(InvalidArgumentError, match=rf"^path='{path}': ({said})") as caught:
        interop.load(path, **LENET)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "written").exists()


def test_a_file_is_replaced_when_asked_and_as_a_whole(tmp_path, monkeypatch):
    classifier = models.create("lenet", input_shape=(28, 28, 1), num_classes=10)
    path = tmp_path / "model.pt"
    interop.save(path, classifier, "kuangliu")
    before = path.read_bytes()
    with pytest.raises(InvalidArgumentError, match=r"is there already; .*--overwrite"):
        interop.save(path, classifier, "kuangliu")

    def fail(value, file):
        file.write(b"half")
        raise OSError("no space")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        interop.save(path, edited(classifier), "kuangliu", overwrite=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.pt"]
    for wrong, said in (
        (tmp_path / "no" / "a.pt", "there is no folder"),
        (tmp_path, "must end in"),
    ):
        with pytest.raises(InvalidArgumentError, match=said):
            interop.save(wrong, classifier, "kuangliu")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(
        InvalidArgumentError, match=r"'safetensors': .* pip install 'ignpx\[torch\]'"
    ):
        interop.load(tmp_path / "model.safetensors", **LENET)


def test_a_file_forgets_a_class(tmp_path, trained):
    path, out = tmp_path / "model.pt", tmp_path / "new.pt"
    tensors = interop.to_state_dict(trained, "kuangliu")
    torch.save({f"module.{name}": one for name, one in tensors.items()}, path)
    settings = {"samples": 4, "steps": 20, "held_out": 4}
    command = ["forget-torch", path, "--arch", "lenet", "--forget", 3, "--out", out]
    chosen = [part for name, one in settings.items() for part in ("--set", f"{name}={one}")]
    normalisation = trained.preprocess
    normalised = ["--mean", normalisation.mean[0], "--std", normalisation.std[0]]
    status, said = run(*command, *chosen, *normalised)
    assert status == 0, said
    assert "lenet in the names of kuangliu, inputs 32x32x1, 10 classes, " in said
    assert "warning: every key begins with 'module.'" in said
    found = torch.load(out, weights_only=True)
    changed = {name for name in found if not torch.equal(found[name], tensors[name[7:]])}
    assert "module.fc3.weight" in changed
    assert not {"module.conv1.weight", "module.conv1.bias"} & changed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        about = interop.forget(
            path, tmp_path / "same.pt", 3, arch="lenet", settings=settings,
            mean=normalisation.mean, std=normalisation.std,
        )  # fmt: skip
    assert about["coverage"] > 0
    same = torch.load(tmp_path / "same.pt", weights_only=True)
    assert all(torch.equal(same[name], one) for name, one in found.items())

    for wrong, expected in (
        ([], "is there already"),
        (["--overwrite", "--method", "ssd"], "method='ssd': needs data"),
        (["--overwrite", "--input-shape", "28x28"], "--input-shape='28x28': must be numbers"),
        (["--overwrite", "--classes", 7], "the model has 10 classes, not 7"),
        (["--overwrite", "--forget", 10], "is not a class; the classes are 0 to 9"),
    ):
        status, said = run(*command, *wrong)
        assert (status, expected in said) == (2, True), said


def test_the_script_of_the_transcript(tmp_path, monkeypatch):
    """In PyTorch the class is lost, and nothing else; the files differ in the edited layers."""
    said = []
    monkeypatch.setattr(from_pytorch.console, "print", lambda *given, **_: said.extend(given))
    before, after = from_pytorch.main(
        tmp_path, dataset="digits", arch="lenet", epochs=6, batch_size=32,
        setting=["samples=4", "steps=20", "held_out=4"], attack=["forget-accuracy"],
    )  # fmt: skip
    assert min(before) > 90
    assert after.forgotten < 10
    assert after.others > before.others - 10
    assert any("forgotten in" in str(line) and "of compilation" in str(line) for line in said)
    files = [tmp_path / f"{name}.pt" for name in ("original", "forgetful")]
    first, second = (torch.load(file, weights_only=True) for file in files)
    assert first.keys() == second.keys()
    assert not torch.equal(first["fc3.weight"], second["fc3.weight"])
    assert torch.equal(first["conv1.weight"], second["conv1.weight"])
