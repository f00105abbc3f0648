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
# # Forget a class
#
# A classifier has learned ten handwritten digits, and one of them has to go. There is no training
# data any more: only the model. This notebook trains the model on digits that come with
# scikit-learn, forgets one of them with IGNP, and looks at what happened.

# %%
# %matplotlib inline
import jax
import numpy as np
from IPython.display import display

import ignpx
from ignpx import data, models, training
from ignpx.audit import count_correct
from ignpx.experiments import pictures
from ignpx.methods import ignp
from ignpx.training import Recipe

# %% [markdown]
# ## A model
#
# Any model would do; see the README for Linen modules, NNX modules of your own and plain functions.
# This one is LeNet. `Classifier` is the handle that every function takes and returns: a pytree of
# parameters and state, with the function that applies them.

# %%
splits = data.load_splits("digits")
classifier = models.create(
    "lenet", input_shape=(32, 32, 1), num_classes=10, preprocess=splits.preprocess
)
recipe = Recipe(epochs=15, batch_size=64, optimizer="adam", learning_rate=2e-3)
classifier = training.train(classifier, splits.train, splits.validation, recipe, seed=0)
before = count_correct(classifier, splits.test)
print(f"test accuracy {before.accuracy():.1%}")

# %% [markdown]
# ## Forgetting
#
# A request says what to forget. It carries no data here, and IGNP would not be handed any: it
# declares that it sees nothing, and `ignpx.unlearn` holds it to that. It makes ten prototypes of
# each class to weigh the parameters on, and ten that are held out: fewer than by default, and
# enough for a model this small.

# %%
method = ignp(samples=10, held_out=10)
print(method.sees)
request = ignpx.Request.classes([6], num_classes=10)
edited, info = ignpx.unlearn(method, classifier, request, jax.random.key(0))

# %% [markdown]
# `info` tells how it went without any data. The threshold alpha was calibrated so that a wanted
# share of the parameters is dampened. Some of the synthesised prototypes took no part in weighing
# the parameters, only in choosing how many of them to dampen; the edited model should recognise all
# of these but those of the forgotten class.

# %%
print(f"alpha {float(info.calibration.alpha):.3g}, coverage {float(info.calibration.coverage):.2%}")
for digit, share in enumerate(np.asarray(info.held_out)):
    print(f"held-out prototypes of {digit}: {share:.0%} recognised")

# %% [markdown]
# The prototypes themselves, with the forgotten class framed. They are not digits to the eye; they
# are what this model takes for digits.

# %%
display(
    pictures.prototypes(np.asarray(info.prototypes.inputs), splits.info.class_names, forget=[6])
)

# %% [markdown]
# ## What the test set says
#
# This is measured, not used: unlearning is over.

# %%
after = count_correct(edited, splits.test)
print(f"forgotten class: {before.accuracy([6]):.1%} -> {after.accuracy([6]):.1%}")
print(f"the other nine:  {before.accuracy_without([6]):.1%} -> {after.accuracy_without([6]):.1%}")
accuracies = {"before": before.per_class(), "after": after.per_class()}
display(pictures.class_accuracies(accuracies, splits.info.class_names, forget=[6]))

# %% [markdown]
# ## One after another
#
# A class that was forgotten earlier is named in the next request, so that its prototypes are no
# longer among those to keep.

# %%
request = ignpx.Request.classes([0], num_classes=10, forgotten=[6])
twice, _ = ignpx.unlearn(method, edited, request, jax.random.key(1))
final = count_correct(twice, splits.test)
print(f"forgotten: 6 {final.accuracy([6]):.1%}, 0 {final.accuracy([0]):.1%}")
print(f"the other eight: {final.accuracy_without([0, 6]):.1%}")
