# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From PyTorch and back
#
# A network of PyTorch forgets a class, and PyTorch scores the result. The network is none of
# those that `ignpx` knows: `interop.from_torch` takes it as it is.

# %%
# %matplotlib inline
import textwrap
import warnings

import jax
import numpy as np
import torch
from IPython.display import display
from torch import nn
from torch.nn import functional

import ignpx
from ignpx import audit, data, interop
from ignpx.experiments import pictures

# %% [markdown]
# ## A model of PyTorch
#
# A small network with depthwise convolutions learns the ten handwritten digits that come with
# scikit-learn. This part knows nothing of `ignpx`, but for the images.


# %%
class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 4, 4)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm = nn.BatchNorm2d(16)
        self.pointwise = nn.Conv2d(16, 32, 1)
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(32 * 16, 10))

    def forward(self, x):
        x = functional.silu(self.stem(x))
        x = x + functional.silu(self.norm(self.depthwise(x)))
        x = functional.avg_pool2d(functional.silu(self.pointwise(x)), 2)
        return self.head(x.flatten(1))


splits = data.load_splits("digits")


def tensors(samples):
    inputs = np.moveaxis(np.asarray(splits.preprocess(samples.images)), -1, 1)
    return torch.tensor(inputs), torch.tensor(np.asarray(samples.labels)).long()


inputs, labels = tensors(splits.train)
torch.set_num_threads(1)  # so small a network gains nothing by more
torch.manual_seed(0)
module = Network()
optimiser = torch.optim.Adam(module.parameters(), 3e-3)
for _ in range(20):
    for rows in torch.randperm(len(labels)).split(64):
        optimiser.zero_grad()
        functional.cross_entropy(module(inputs[rows]), labels[rows]).backward()
        optimiser.step()
module.eval()


@torch.no_grad()
def score(module):
    inputs, labels = tensors(splits.test)
    right = (module(inputs).argmax(1) == labels).float()
    return [float(right[labels == digit].mean()) for digit in range(10)]


before = score(module)
print(f"3: {before[3]:.1%}; the other nine: {np.mean(np.delete(before, 3)):.1%}")

# %% [markdown]
# ## Forgetting
#
# `from_torch` exports the operations of the module, and JAX evaluates them. Parameters keep their
# names, so the layers that may be edited are named as in PyTorch. `ChannelsFirst` says how inputs
# are made of images, which keeps prototypes within the values that a pixel can have.

# %%
classifier = interop.from_torch(
    module,
    input_shape=(1, 32, 32),
    num_classes=10,
    preprocess=interop.ChannelsFirst(splits.preprocess),
    targets=("pointwise", "head"),
)
request = ignpx.Request.classes([3], num_classes=10)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ignpx.UnlearningWarning)  # the doubts, which are printed below
    forgetful, info = ignpx.unlearn(ignpx.methods.ignp(), classifier, request, jax.random.key(0))
print(*textwrap.wrap(" ".join(info.doubts(request)), 90), sep="\n")

# %% [markdown]
# ## Back in PyTorch
#
# The edited weights come back under the keys of the module.

# %%
module.load_state_dict(interop.to_state_dict(forgetful))
after = score(module)
print(f"3: {after[3]:.1%}; the other nine: {np.mean(np.delete(after, 3)):.1%}")
display(
    pictures.class_accuracies(
        {"before": before, "after": after}, splits.info.class_names, forget=[3]
    )
)

# %% [markdown]
# ## Is it gone?
#
# Two attacks of `ignpx audit`. The first is the share of threes that are still recognised. The
# second ranks the test images by the logit of the three; its value is the area under the curve, and
# 0.5 is chance. An accuracy of 0 % does not settle the second: `erase-zs` and the guide to audits
# go on from there.

# %%
evidence = {
    "classes": (3,),
    "forget_train": data.only(splits.train, [3]),
    "retain_train": data.retained(splits.train, [3]),
    "forget_test": data.only(splits.test, [3]),
    "retain_test": data.retained(splits.test, [3]),
}
for name, model in {"before": classifier, "after": forgetful}.items():
    shown = audit.Evidence(model=model, original=classifier, **evidence)
    for attack in ("forget-accuracy", "logit-ranking"):
        print(f"{name:7} {attack:16} {audit.build(attack)(shown).value:.3f}")
