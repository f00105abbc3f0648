"""A model of two dense layers on small images, that compiles in a moment."""

import jax
import jax.numpy as jnp

from ignpx import Classifier

NAME = "small_net:small"


def logits(params, x):
    hidden = jax.nn.relu(x.reshape(len(x), -1) @ params["hidden"]["w"] + params["hidden"]["b"])
    return hidden @ params["out"]["w"] + params["out"]["b"]


def small(input_shape, num_classes, seed):
    size = input_shape[0] * input_shape[1] * input_shape[2]
    shapes = {"hidden": (size, 16), "out": (16, num_classes)}

    def initialise(key):
        keys = dict(zip(shapes, jax.random.split(key), strict=True))
        layers = {
            name: {
                "w": jax.random.normal(keys[name], shape) * shape[0] ** -0.5,
                "b": jnp.zeros(shape[1]),
            }
            for name, shape in shapes.items()
        }
        return layers, {}

    params, _ = initialise(jax.random.key(seed))
    return Classifier.from_function(
        logits, params, input_shape=input_shape, num_classes=num_classes, initialise=initialise
    )
