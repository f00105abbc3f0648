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
# # Compose your own
#
# A published method is a short composition of five verbs: synthesise, weigh, select, edit, descend.
# So the parts of different methods can be put together, and a new one fits into a cell. Here are
# three: the images of UISPS with the edit of IGNP, the mask of IGNP with the scaling of SSD, and a
# method of the reader's own that runs like any other.

# %%
# %matplotlib inline
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from IPython.display import display

import ignpx
from ignpx import data, edits, importance, losses, models, selection, synthesis, training
from ignpx.audit import count_correct
from ignpx.experiments import pictures
from ignpx.targets import partition, size
from ignpx.training import Recipe

FORGET = 3

# %% [markdown]
# A small ResNet9 on the digits that come with scikit-learn. It has batch norm, whose running
# statistics are what the images of UISPS are held to.

# %%
splits = data.load_splits("digits")
classifier = models.create(
    "resnet9", input_shape=(32, 32, 1), num_classes=10, width=0.125, preprocess=splits.preprocess
)
recipe = Recipe(epochs=4, batch_size=64, optimizer="adam", learning_rate=3e-3)
classifier = training.train(classifier, splits.train, splits.validation, recipe, seed=0)

results = {}


def keep(name, model):
    counts = count_correct(model, splits.test)
    results[name] = {
        "forget accuracy, %": 100 * counts.accuracy([FORGET]),
        "retain accuracy, %": 100 * counts.accuracy_without([FORGET]),
    }
    return pd.DataFrame([results[name]], index=[name]).round(2)


keep("original", classifier)

# %% [markdown]
# ## The images of UISPS, the edit of IGNP
#
# UISPS inverts the model with three terms: the class, the statistics that batch norm remembers, and
# an entropy that moves half of the images towards the decision boundaries. A term is a function of
# what it sees to a number; a list of them is an objective.

# %%
terms = [
    synthesis.cross_entropy(),
    synthesis.batch_statistics(1.0),
    synthesis.entropy(0.05, share=0.5),
]
images = synthesis.synthesise(classifier, jax.random.key(0), terms=terms, samples=10, steps=100)
display(pictures.prototypes(np.asarray(images.inputs), splits.info.class_names, forget=[FORGET]))

# %% [markdown]
# IGNP weighs every parameter by its squared gradients on the images of the class to forget and on
# those of all others, marks the one percent with the largest ratio, and dampens it.

# %%
inputs = images.inputs.reshape(-1, *classifier.input_shape)
labels = jnp.repeat(images.labels, 10)
of_forget = (labels == FORGET).astype(jnp.float32)
weights = jnp.stack([of_forget / of_forget.sum(), (1 - of_forget) / (1 - of_forget).sum()])
moments = importance.sensitivity_moments(
    classifier,
    inputs,
    labels,
    weights,
    weights[0],
    loss=losses.negative_log_odds,
    patterns=classifier.targets,
)
s_forget, s_retain = (jax.tree.map(lambda leaf, i=i: leaf[i], moments.square) for i in (0, 1))
chosen, _ = partition(classifier.params, classifier.targets)
s_forget = selection.supporting(s_forget, moments.mean, chosen)

ratios = selection.log_ratio(s_forget, s_retain)
total = size(classifier.params)
calibration = selection.calibrate(ratios, (0.009, 0.011), total=total)
factors = edits.dampening(ratios, calibration.log_alpha, strength=10.0)
dampened = classifier.replace(params=edits.scale(classifier.params, factors))
keep("UISPS's images, IGNP's edit", dampened)

# %% [markdown]
# ## The mask of IGNP, the scaling of SSD
#
# SSD shrinks a parameter by how much less it matters to all than to what is forgotten. IGNP
# multiplies that by `alpha / strength`. The scaling of SSD takes the same ratios and the same
# threshold, so that one line changes.

# %%
factors = edits.capped_dampening(ratios, calibration.log_alpha, strength=1.0)
scaled = classifier.replace(params=edits.scale(classifier.params, factors))
print(f"IGNP's factors are {float(calibration.alpha) / 10:.2g} times as large")
keep("IGNP's mask, SSD's scaling", scaled)

# %% [markdown]
# ## A method of your own
#
# A factory of hyperparameters that returns an `Unlearner`: the data it is given (none), a pure
# function, and nothing else. This one needs no image: it turns the weights into the logit of the
# class around, and adds noise of their size to them.


# %%
class Nothing(NamedTuple):
    """It cannot fail, and has nothing to tell."""

    def check(self, request): ...

    def summary(self):
        return {}


def turn_around(noise: float = 0.5) -> ignpx.Unlearner:
    def unlearn(classifier, request, key):
        def leaf(values):
            drawn = noise * jnp.std(values) * jax.random.normal(key, values.shape)
            return jnp.where(request.forget, drawn - values, values)

        head = jax.tree.map(leaf, classifier.params["classifier"])
        return classifier.replace(params={**classifier.params, "classifier": head}), Nothing()

    return ignpx.Unlearner(ignpx.Sees.NOTHING, unlearn)


request = ignpx.Request.classes([FORGET], num_classes=10)
turned, _ = ignpx.unlearn(turn_around(), classifier, request, jax.random.key(0))
keep("turned around", turned)

# %% [markdown]
# It runs under `vmap` too, over all classes at once.

# %%
every = jax.vmap(
    lambda classes: turn_around().unlearn(
        classifier, ignpx.Request(classes, ~classes), jax.random.key(0)
    )[0]
)(jnp.eye(10, dtype=bool))
for digit in range(10):
    one = jax.tree.map(lambda leaf, d=digit: leaf[d], every)
    counts = count_correct(one, splits.test)
    print(
        f"{digit}: forget {counts.accuracy([digit]):.1%}, "
        f"retain {counts.accuracy_without([digit]):.1%}"
    )

# %% [markdown]
# ## Side by side
#
# That the last one scores so well says more about the score than about the method. What the model
# knew of the class is still there, one layer below: accuracy is not all that there is to measure,
# and `ignpx.audit` has more.

# %%
pd.DataFrame(results).T.round(2)
