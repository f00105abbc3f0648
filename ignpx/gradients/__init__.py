"""Gradients of samples: mean, moments, the subspaces of layers, and influence."""
