"""The benchmark: a config is expanded into cells, cells are run once, results become tables."""
