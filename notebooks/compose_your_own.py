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
# `ignpx.steps` has them as small values that are chained into a method, as optax chains gradient
# transformations. So the parts of different methods can be put together, each line can be replaced,
# and a function of your own is a step as it is.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from IPython.display import display

import ignpx
from ignpx import data, models, steps, synthesis, training
from ignpx.audit import count_correct
from ignpx.experiments import pictures

FORGET = 3

# %% [markdown]
# A small ResNet9 on the digits that come with scikit-learn. It has batch norm, and the images of
# UISPS are held to the statistics that it remembers.

# %%
splits = data.load_splits("digits")
classifier = models.create(
    "resnet9", input_shape=(32, 32, 1), num_classes=10, width=0.125, preprocess=splits.preprocess
)
recipe = training.Recipe(epochs=4, batch_size=64, optimizer="adam", learning_rate=3e-3)
classifier = training.train(classifier, splits.train, splits.validation, recipe, seed=0)

request = ignpx.Request.classes([FORGET], num_classes=10)
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
# what it sees to a number, and a list of terms is an objective. The rest is IGNP: it weighs every
# parameter by its squared gradients on the images of the class to forget and on those of the
# others, selects the one percent with the largest ratio, and dampens it.
#
# The images and the sum of their squared gradients do not depend on what is forgotten. They are
# prepared once, and serve every method that begins with the same two steps.

# %%
terms = [
    synthesis.cross_entropy(),
    synthesis.batch_statistics(1.0),
    synthesis.entropy(0.05, share=0.5),
]
images = steps.synthesise(terms, samples=10, held_out=10, steps=100, pixel_range=False)
one_percent = steps.calibrate((0.009, 0.011), within="middle")

method = steps.chain(images, steps.weigh(), one_percent, steps.edit(steps.Dampen(10.0)))
prepared = method.prepare(classifier, jax.random.key(0))

dampened, info = ignpx.unlearn(method, classifier, request, jax.random.key(0), prepared)
inputs = np.asarray(info.prototypes.inputs)
display(pictures.prototypes(inputs, splits.info.class_names, forget=[FORGET]))
keep("UISPS's images, IGNP's edit", dampened)

# %% [markdown]
# ## The mask of IGNP, the scaling of SSD
#
# SSD shrinks a parameter by how much less it matters to all than to what is forgotten. IGNP
# multiplies that by `alpha / strength`. One line changes.

# %%
method = steps.chain(images, steps.weigh(), one_percent, steps.edit(steps.CappedDampen(1.0)))

scaled, info = ignpx.unlearn(method, classifier, request, jax.random.key(0), prepared)
print(f"IGNP's factors are {float(info.calibration.alpha) / 10:.2g} times as large")
keep("IGNP's mask, SSD's scaling", scaled)

# %% [markdown]
# ## An edit of your own
#
# An edit is a function of the parameters in the target layers, of what was selected, and of a key.
# This one replaces the selected parameters by a random permutation of themselves: their
# distribution stays, and what they say does not.


# %%
def shuffle(params, selected, key):
    def leaf(values, mask):
        order = jax.random.permutation(key, values.ravel()).reshape(values.shape)
        return jnp.where(mask, order, values)

    return jax.tree.map(leaf, params, selected.masks)


method = steps.chain(images, steps.weigh(), one_percent, steps.edit(shuffle), steps.judge())

shuffled, info = ignpx.unlearn(method, classifier, request, jax.random.key(0), prepared)
print("held-out images still recognised, by class:", np.asarray(info.held_out).round(2))
keep("an edit of one's own", shuffled)

# %% [markdown]
# ## All ten classes at once
#
# A method is a pure function, and so `jax.vmap` maps it over requests.


# %%
@jax.jit
@jax.vmap
def forget(classes):
    asked = ignpx.Request(classes, ~classes)
    return method.unlearn(classifier, asked, jax.random.key(0), prepared)[0]


every = forget(jnp.eye(10, dtype=bool))
for digit in range(10):
    counts = count_correct(jax.tree.map(lambda leaf, d=digit: leaf[d], every), splits.test)
    print(
        f"{digit}: forget {counts.accuracy([digit]):.1%}, "
        f"retain {counts.accuracy_without([digit]):.1%}"
    )

# %% [markdown]
# ## A step of your own
#
# A function of the state of the chain to a new state is a step, too. This method needs no image: it
# turns the weights of the class's logit around. It forgets the class, and what the model knows of
# the class is still there one layer below: accuracy is not all that there is to measure, and
# `ignpx.audit` has more.


# %%
def turn_around(state):
    def leaf(values):
        return jnp.where(state.request.forget, -values, values)

    params = state.classifier.params
    head = jax.tree.map(leaf, params["classifier"])
    return state.replace(classifier=state.classifier.replace(params={**params, "classifier": head}))


turned, _ = ignpx.unlearn(steps.chain(turn_around), classifier, request, jax.random.key(0))
keep("turned around", turned)

# %% [markdown]
# ## Side by side

# %%
pd.DataFrame(results).T.round(2)
