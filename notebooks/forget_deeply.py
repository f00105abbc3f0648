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
# the class apart. This notebook forgets a digit in three ways, `ignp`, the head alone, and
# `erase-zs`, and compares the features with those of the original model and of a model that was
# trained without the digit.

# %%
# %matplotlib inline
import jax
import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA

import ignpx
from ignpx import Samples, data, models, training
from ignpx.audit import Evidence, build, count_correct
from ignpx.methods import erase_zs, ignp
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
# ## Three ways to forget
#
# `ignp` dampens the parameters that matter to the zero. `erase-zs` makes the logit of the zero a
# constant, the mean of the others, which is never the largest. Before that, each target layer stops
# reading the direction by which the prototypes of the zero differ from those of all other digits;
# with a `depth` of 0 it does not, and the head alone is edited. None of them sees any data.

# %%
request = ignpx.Request.classes([FORGET], num_classes=10)
key = jax.random.key(0)
dampened, _ = ignpx.unlearn(ignp(), original, request, key)
prepared = erase_zs().prepare(original, key)
head_alone, _ = ignpx.unlearn(erase_zs(depth=0.0), original, request, key, prepared)
erased, info = ignpx.unlearn(erase_zs(), original, request, key, prepared)

for layer, strength in info.strengths.items():
    print(f"{layer}: {float(strength):.0%} of the direction is taken out")

# %% [markdown]
# All forget the digit, and keep the others.

# %%
MODELS = {
    "original": original,
    "ignp": dampened,
    "head alone": head_alone,
    "erase-zs": erased,
    "retrained": retrained,
}
for name, model in MODELS.items():
    counts = count_correct(model, splits.test)
    kept, left = counts.accuracy_without([FORGET]), counts.accuracy([FORGET])
    print(f"{name:10} {kept:.1%} of the other digits, {left:.1%} of the zeros")

# %% [markdown]
# ## What the features still tell
#
# The features before the last layer, in the plane that shows most of the original's. Zeros are
# black. After `ignp` they are a cluster of their own, as before, and an edit of the head does not
# reach them. After `erase-zs` they lie among the others, as in the model that never saw one.

# %%
images, labels = (np.asarray(part) for part in splits.test)


def features(model):
    return np.asarray(jax.jit(type(model).features)(model, model.preprocess(images)))


figure, axes = plt.subplots(1, 5, figsize=(15, 3.2), layout="constrained")
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
# zero's logit ranks zeros before other digits, and the margin is the same of its distance to the
# largest other logit. The class means give each image the digit whose mean
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
    ranked, means, alike = (
        build(attack)(evidence) for attack in ("logit-ranking", "class-means", "representation")
    )
    print(
        f"{name:10} logit {ranked.value:.3f}, margin {ranked.details['margin']:.3f}, "
        f"class means {means.value:.3f}, representation {alike.value:.3f}"
    )
