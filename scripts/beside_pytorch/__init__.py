"""What `bench_vs_pytorch.py` compares: a model on both sides, what both do to it, and the table."""
