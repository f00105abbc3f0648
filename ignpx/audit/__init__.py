"""Measurements of a classifier, before and after unlearning."""

from ignpx.audit.accuracy import ClassCounts, count_correct

__all__ = ["ClassCounts", "count_correct"]
