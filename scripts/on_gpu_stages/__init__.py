"""What `on_gpu.py` does on a machine with a GPU, and what it takes there; one stage a file."""
