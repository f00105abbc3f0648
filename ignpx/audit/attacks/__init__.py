"""Attacks on the claim that a class was forgotten, one file each.

Accuracy on the class is zero already if its logit alone is hidden. An attack asks what of the class
is left behind that zero: a measurement (`ignpx.audit.Measure`) of `Evidence.model`, whose docstring
states what the attacker has. That may be the logits of images, the weights, labelled samples of the
class, or retained samples.

The value itself says little. Whoever has labelled samples of a class recovers some accuracy even
from a model that never saw it. The value is therefore to be held against that of a retrained model
(`better="retrained"`): the attack is evidence of the class where the two can be told apart. An
interval is over samples or draws. Retrained models of other seeds differ by more, so that several
of them say more than one. No attack proves that a model has forgotten; another attack may find what
it did not.
"""
