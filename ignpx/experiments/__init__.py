"""Whole runs on files: configs, checkpoints, run directories, requests on datasets, pictures."""
