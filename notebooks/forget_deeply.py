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
# # Forget deeply
#
# A model that never predicts a class may still know it: the features before its last layer can tell
# the class apart. This notebook forgets a digit in two ways, `ignp` and `ignp-deep`, and compares
# the features with those of the original model and of a model that was trained without the digit.

# %%
# %matplotlib inline
import jax
import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA

import ignpx
from ignpx import Samples, data, models, training
from ignpx.audit import Evidence, build, count_correct
from ignpx.methods import ignp
from ignpx.training import Recipe

# %% [markdown]
# ## Two models
#
# One learns all ten digits. The other never sees a zero: what it knows of zeros comes from the
# other digits alone, and it is the yardstick.

# %%
FORGET = 0
splits = data.load_splits("digits")
without = data.retained(splits.train, [FORGET])
recipe = Recipe(epochs=10, batch_size=64, optimizer="adam", learning_rate=2e-3)


def trained(samples, seed):
    fresh = models.create(
        "lenet", input_shape=(32, 32, 1), num_classes=10, preprocess=splits.preprocess, seed=seed
    )
    return training.train(fresh, samples, splits.validation, recipe, seed=seed)


original, retrained = trained(splits.train, 0), trained(without, 1)

# %% [markdown]
# ## Two ways to forget
#
# `ignp-deep` is `ignp`, and then a projection: each target layer stops reading the direction by
# which the prototypes of the zero differ from those of all other digits. Neither sees any data, and
# both take the prototypes that one of them has prepared.

# %%
request = ignpx.Request.classes([FORGET], num_classes=10)
key = jax.random.key(0)
prepared = ignp().prepare(original, key)
hidden, _ = ignpx.unlearn(ignp(), original, request, key, prepared)
deep, info = ignpx.unlearn(ignp(depth=1.0), original, request, key, prepared)

for layer, strength in info.strengths.items():
    print(f"{layer}: {float(strength):.0%} of the direction is taken out")

# %% [markdown]
# Both forget the digit, and keep the others.

# %%
MODELS = {"original": original, "ignp": hidden, "ignp-deep": deep, "retrained": retrained}
for name, model in MODELS.items():
    counts = count_correct(model, splits.test)
    kept, left = counts.accuracy_without([FORGET]), counts.accuracy([FORGET])
    print(f"{name:10} {kept:.1%} of the other digits, {left:.1%} of the zeros")

# %% [markdown]
# ## What the features still tell
#
# The features before the last layer, in the plane that shows most of the original's. Zeros are
# black. After `ignp` they are a cluster of their own, as before; after `ignp-deep` they lie among
# the others, as in the model that never saw one.

# %%
images, labels = (np.asarray(part) for part in splits.test)


def features(model):
    return np.asarray(jax.jit(type(model).features)(model, model.preprocess(images)))


figure, axes = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained")
for axis, (name, model) in zip(axes, MODELS.items(), strict=True):
    found = PCA(2).fit_transform(features(model))
    zeros = labels == FORGET
    axis.scatter(*found[~zeros].T, c=labels[~zeros], cmap="tab10", s=8, alpha=0.6)
    axis.scatter(*found[zeros].T, c="black", s=12)
    axis.set(title=name, xticks=[], yticks=[])

# %% [markdown]
# ## In numbers
#
# Three attacks of `ignpx audit` on each model. The ranking is the area under the curve by which the
# zero's logit ranks zeros before other digits. The class means give each image the digit whose mean
# of features is nearest. The representation is the similarity of the features to the original's
# (CKA). The value to reach is that of the retrained model.


# %%
def part(samples, classes):
    chosen = np.isin(np.asarray(samples.labels), classes)
    return Samples(*(np.asarray(array)[chosen] for array in samples))


others = [digit for digit in range(10) if digit != FORGET]
data_of = {
    "forget_train": part(splits.train, [FORGET]),
    "retain_train": part(splits.train, others),
    "forget_test": part(splits.test, [FORGET]),
    "retain_test": part(splits.test, others),
}
for name, model in MODELS.items():
    evidence = Evidence(model=model, original=original, classes=(FORGET,), **data_of)
    attacks = ("logit-ranking", "class-means", "representation")
    found = {attack: round(build(attack)(evidence).value, 3) for attack in attacks}
    print(name, found)
