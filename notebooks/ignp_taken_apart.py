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
# # IGNP, taken apart
#
# Inversion-Guided Neuron Perturbation is four steps, and each is a plain function: *synthesise*
# prototypes, *weigh* the parameters, *select* some of them, *edit* those. Here they are called one
# by one, with a look at what passes between them. At the end one of them is swapped for another.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure

from ignpx import data, edits, importance, losses, models, selection, synthesis, targets, training
from ignpx.audit import count_correct
from ignpx.experiments import pictures
from ignpx.training import Recipe

FORGET = 6

splits = data.load_splits("digits")
classifier = models.create(
    "lenet", input_shape=(32, 32, 1), num_classes=10, preprocess=splits.preprocess
)
recipe = Recipe(epochs=15, batch_size=64, optimizer="adam", learning_rate=2e-3)
classifier = training.train(classifier, splits.train, splits.validation, recipe, seed=0)

# %% [markdown]
# ## Synthesise
#
# Noise is optimised until the model takes it for a class. The objective is a sum of terms. With the
# two terms of the paper, cross-entropy and diversity, the result is still noise to the eye, and its
# loss falls without end. A prior for images makes the prototypes smooth, and stops them at a loss
# where class and prior balance.

# %%
paper = [synthesis.cross_entropy(), synthesis.diversity()]
ours = [*paper, synthesis.total_variation()]
plain, smooth = (
    synthesis.synthesise(
        classifier,
        jax.random.key(0),
        terms=tuple(terms),
        samples=10,
        bounds=splits.preprocess.bounds,
    )
    for terms in (paper, ours)
)
for name, prototypes in (("paper's terms", plain), ("with total variation", smooth)):
    print(f"{name}: roughness {float(prototypes.roughness.mean()):.2f} (noise has 1)")
    display(
        pictures.prototypes(
            np.asarray(prototypes.inputs), splits.info.class_names, [FORGET], rows=2
        )
    )

# %%
figure = Figure(figsize=(7, 2.8), layout="constrained")
for axis, (name, prototypes) in zip(
    figure.subplots(1, 2, sharey=True),
    (("paper's terms", plain), ("with total variation", smooth)),
    strict=True,
):
    axis.semilogy(np.asarray(prototypes.trace), color=pictures.BEFORE, linewidth=1)
    axis.semilogy(np.asarray(prototypes.trace[:, FORGET]), color=pictures.FORGET)
    axis.set(title=name, xlabel="step")
    axis.spines[["top", "right"]].set_visible(False)
figure.axes[0].set_ylabel("cross-entropy by class")
display(figure)

# %% [markdown]
# ## Weigh
#
# For each parameter of the target layers: the mean squared gradient of each prototype's own loss,
# once over the prototypes of the class to forget and once over all others. Two weightings of the
# same samples share one pass.

# %%
inputs = smooth.inputs.reshape(-1, *classifier.input_shape)
labels = jnp.repeat(smooth.labels, 10)
is_forget = (labels == FORGET).astype(jnp.float32)
weights = jnp.stack([is_forget / is_forget.sum(), (1 - is_forget) / (1 - is_forget).sum()])
both = importance.sensitivity(
    classifier,
    inputs,
    labels,
    weights,
    loss=losses.negative_log_odds,
    patterns=classifier.targets,
)
s_forget, s_retain = (jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in (0, 1))

flat = [
    np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(s)]) for s in (s_forget, s_retain)
]
figure = Figure(figsize=(4.4, 4), layout="constrained")
axis = figure.subplots()
seen = (flat[0] > 0) & (flat[1] > 0)
axis.hexbin(
    flat[1][seen], flat[0][seen], xscale="log", yscale="log", bins="log", cmap="Blues", mincnt=1
)
axis.set(xlabel="retain sensitivity", ylabel="forget sensitivity")
print(f"{np.mean(flat[0] > 0):.0%} of the parameters matter to the forget class,")
print(f"{np.mean((flat[0] > 0) & (flat[1] == 0)):.2%} to no other")
display(figure)

# %% [markdown]
# Squares have no sign. Some of the parameters that matter to the forget class speak against it, and
# to shrink those would keep it alive. The mean gradient tells: a parameter supports the class if
# the loss rises, to first order, when it shrinks. Only those are candidates.

# %%
chosen, _ = targets.partition(classifier.params, classifier.targets)
gradient = importance.mean_gradient(
    classifier,
    inputs,
    labels,
    weights[0],
    loss=losses.negative_log_odds,
    patterns=classifier.targets,
)
s_supporting = selection.supporting(s_forget, gradient, chosen)
share = sum(jnp.sum(leaf > 0) for leaf in jax.tree.leaves(s_supporting)) / np.sum(flat[0] > 0)
print(f"{share:.0%} of the parameters that matter to the forget class support it")

# %% [markdown]
# ## Select
#
# A parameter is marked where its forget sensitivity exceeds alpha times its retain sensitivity, and
# alpha is what marks the wanted share of the model. The curve is the share for every alpha; the
# band is the range asked for, the line the alpha that the search found.

# %%
coverage = (0.008, 0.012)
total = targets.size(classifier.params)
ratios = selection.log_ratio(s_supporting, s_retain)
calibration = selection.calibrate(ratios, coverage, total=total)
print(f"alpha {float(calibration.alpha):.3g} in {int(calibration.passes)} passes")
flat_ratios = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(ratios)])
display(pictures.coverage_curve(flat_ratios, total, float(calibration.log_alpha), coverage))

# %% [markdown]
# ## Edit
#
# Marked parameters shrink, the more the less the others need them.

# %%
factors = edits.dampening(ratios, calibration.log_alpha, 10.0)
edited = classifier.replace(params=edits.scale(classifier.params, factors))

masks = selection.mask(ratios, calibration.log_alpha)
names = targets.paths(masks)
shares = [float(jnp.mean(leaf)) for leaf in jax.tree.leaves(masks)]
figure = Figure(figsize=(6, 2.6), layout="constrained")
axis = figure.subplots()
axis.barh(names, 100 * np.asarray(shares), color=pictures.FORGET)
axis.set(xlabel="dampened (% of the tensor)")
axis.invert_yaxis()
axis.spines[["top", "right"]].set_visible(False)
display(figure)


# %%
def report(name, model):
    counts = count_correct(model, splits.test)
    print(
        f"{name}: forget {counts.accuracy([FORGET]):.1%}, "
        f"retain {counts.accuracy_without([FORGET]):.1%}"
    )


report("original", classifier)
report("edited", edited)

# %% [markdown]
# ## Swap a step
#
# Every step is a function of arrays, so any of them can be another one. Here the edit is: set the
# marked parameters to zero instead of scaling them, at the same mask and at a wider one.


# %%
def zero(params, masks):
    return jax.tree.map(
        lambda mask, value: value if mask is None else jnp.where(mask, 0.0, value),
        masks,
        params,
        is_leaf=lambda node: node is None,
    )


for wanted in (coverage, (0.04, 0.05)):
    found = selection.calibrate(ratios, wanted, total=total)
    marked = selection.mask(ratios, found.log_alpha)
    zeroed = classifier.replace(params=zero(classifier.params, marked))
    factors = edits.dampening(ratios, found.log_alpha, 10.0)
    dampened = classifier.replace(params=edits.scale(classifier.params, factors))
    report(f"coverage {float(found.coverage):.1%}, dampened", dampened)
    report(f"coverage {float(found.coverage):.1%}, zeroed  ", zeroed)
