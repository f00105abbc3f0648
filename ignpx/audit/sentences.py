"""The comparisons of an audit in words, which promise no more than was measured."""

import math
from collections.abc import Sequence

from ignpx.audit.comparison import Comparison
from ignpx.audit.contract import Finding, Measure
from ignpx.audit.intervals import CONFIDENCE

# Of a comparison, as a heading.
SHORT = {
    "told": "can be told from retraining",
    "not told": "not told from retraining",
    "changed": "differs otherwise",
    "blind": "says nothing here",
    "withheld": "no verdict",
}


def written(value: float, low: float, high: float) -> str:
    """A value as it is printed, by the range of its measurement."""
    return f"{value:.3f}" if low >= -1 and high <= 1 else f"{value:.4g}"


def of_one(
    measure: Measure, model: Finding | None, original: Finding | None, compared: Comparison
) -> str:
    """What one attack says.

    Args:
      measure: the attack.
      model: of the unlearned model.
      original: of the original, if it has a value.
      compared: the comparison of these with retrained models.
    """
    if model is None or compared.outcome == "withheld":
        return f"No verdict: {compared.reason}."
    several = compared.retrained > 1
    other = "a retrained model" if several else "the one retrained model beside it"
    text = {
        "told": f"Can be told from {other}.",
        "not told": f"Cannot be told from {other} by this attack.",
        "changed": f"Differs from {other}, from which this attack does not tell the original: the "
        "difference says nothing of how much is left.",
        "blind": f"Says nothing here: this attack does not tell the original from {other}.",
    }[compared.outcome]

    def number(value: float) -> str:
        return written(value, measure.low, measure.high)

    text += f" Unlearned {number(model.value)}"
    text += f", original {number(original.value)}" if original is not None else ""
    ends = f"{number(compared.expected.low)} to {number(compared.expected.high)}"
    if several:
        text += f"; a further retrained model is expected within {ends} ({CONFIDENCE:.0%})."
    else:
        text += f"; the samples explain {ends} ({CONFIDENCE:.0%}) around the retrained model. A "
        text += "further retrained model may differ as much; give more of them."
    if several and compared.outcome in ("blind", "changed"):
        text += f" {compared.retrained} retrained models were compared; more of them may narrow it."
    if original is None:
        return f"{text} Whether this attack tells the original from it is not known."
    return text + _way(compared)


def _way(compared: Comparison) -> str:
    """How near the model is to the original, where that can be told from retraining."""
    if math.isnan(compared.share):
        return ""
    if compared.share < 0 and compared.outcome == "told":
        return " Its value lies beyond that of retraining, away from the original."
    way = f" Its value lies {compared.share:.0%} of the way from retraining to the original"
    if compared.outcome == "told":
        return f"{way}."
    if compared.share > 0.5:
        return f"{way}, which chance may explain; more retrained models may tell it."
    return f"{way}."


def of_all(compared: Sequence[tuple[str, Comparison]], retrained: int) -> str:
    """What all attacks say together.

    Args:
      compared: the title and the comparison of each attack.
      retrained: number of retrained models.
    """
    if not retrained:
        return "Verdict withheld: no retrained model was given. There is nothing to compare with."
    made = [(title, one) for title, one in compared if one.outcome != "withheld"]
    if not made:
        return "Verdict withheld: no attack could be compared with a retrained model."

    def counted(outcomes: tuple[str, ...]) -> str:
        titles = [title for title, one in made if one.outcome in outcomes]
        return f"{len(titles)} of {len(made)}" + (f" ({', '.join(titles)})" if titles else "")

    apart = counted(("told", "changed"))
    text = [f"Attacks that tell the unlearned model from a retrained one: {apart}."]
    if any(one.outcome in ("blind", "changed") for _, one in made):
        blind = counted(("blind", "changed"))
        text.append(f"Attacks that do not tell even the original from a retrained one: {blind}.")
    text.append(
        f"Each comparison is made at {CONFIDENCE:.0%}: if the model were a retrained one, "
        f"{(1 - CONFIDENCE) * len(made):.2g} of {len(made)} would differ by chance."
    )
    if single := sum(one.retrained == 1 for _, one in made):
        text.append(
            f"Comparisons with a single retrained model: {single} of {len(made)}. How far "
            "retrained models differ among themselves is not known there."
        )
    if apart.startswith("0 "):
        text.append("This does not prove that nothing is left. Another attack may find it.")
    return " ".join(text)
