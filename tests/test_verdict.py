"""When accuracies before and after speak against an edit."""

import pytest

from ignpx.audit import doubts


@pytest.mark.parametrize(
    ("forget", "retain", "classes", "said"),
    [
        ((0.85, 0.85), (0.9, 0.9), True, ["not forgotten"]),  # SSD that selects nothing
        ((0.85, 1.0), (0.9, 0.62), True, ["not forgotten", "damaged"]),  # JiT
        ((0.98, 0.0), (0.978, 0.111), True, ["damaged"]),  # SalUn without retained data
        ((0.973, 0.0), (0.96, 0.944), True, []),
        ((0.9, 0.46), (0.9, 0.9), True, ["not forgotten"]),
        ((0.9, 0.45), (0.9, 0.82), True, []),
        ((0.15, 0.1), (0.9, 0.9), True, []),  # at chance
        ((0.0, 0.0), (0.0, 0.0), True, []),
        # Training samples, remembered before and after; and as a retrained model has them.
        ((1.0, 1.0), (0.9, 0.9), False, ["not forgotten"]),
        ((1.0, 0.9), (0.9, 0.9), False, []),
        ((0.9, 0.9), (0.9, 0.9), False, []),
    ],
)
def test_doubts(forget, retain, classes, said):
    found = doubts(forget=forget, retain=retain, num_classes=10, whole_classes=classes)
    assert [text.partition(":")[0] for text in found] == said
    assert all(f"{value:.2%}" in found[0] for value in forget if "not forgotten" in said)
