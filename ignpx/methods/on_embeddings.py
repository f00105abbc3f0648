"""Methods that see data, run without any: on the head alone, and on random embeddings.

"A universal source-free class unlearning framework via synthetic embeddings", TMLR 2026 (see
`ignpx.embeddings`).
"""

from typing import Any

import jax
import numpy as np

from ignpx import embeddings
from ignpx.classifier import Classifier
from ignpx.request import Request, Sees
from ignpx.samples import Samples
from ignpx.steps import State, embed
from ignpx.unlearner import Changes, Unlearner, unlearn


def on_embeddings(method: Unlearner, *, samples: int = 500, noise: str = "normal") -> Unlearner:
    """Runs a method on the head, with random embeddings in the place of the data that it sees.

        without_data = on_embeddings(ignpx.methods.neggrad_plus())

    Args:
      method: forgets whole classes. It is handed the head as a classifier of features, and the
        embeddings of each class as images.
      samples: embeddings of each class.
      noise: what they are drawn from, see `ignpx.embeddings.draw`.

    Returns:
      An `Unlearner` that sees no data and changes the head alone. It runs outside of `jit`, because
      the classes decide how many embeddings the method is given. Its info is that of the method.

    Raises:
      InvalidArgumentError: if an argument is out of its range; when it is run, if the head is no
        dense layer, or is not a target.
    """
    step = embed(samples=samples, noise=noise)

    def run(classifier: Classifier, request: Request, key: jax.Array) -> tuple[Classifier, Any]:
        draw_key, key = jax.random.split(key)
        assert step.check is not None
        step.check(classifier)
        state, report = step.run(State(classifier, request), draw_key, None)
        report.check(request)
        points = np.concatenate(np.asarray(state.need("examples", "steps.embed").inputs))
        labels = np.repeat(np.arange(classifier.num_classes, dtype=np.int32), samples)

        def of(classes: jax.Array) -> Samples:
            rows = np.asarray(classes)[labels]
            return Samples(points[rows], labels[rows])

        own = Request(request.forget, request.retain, of(request.forget), of(request.retain))
        head, info = unlearn(method, state.classifier, own, key)
        return embeddings.rejoined(classifier, head), info

    return Unlearner(Sees.NOTHING, run, Changes.TARGETS)
