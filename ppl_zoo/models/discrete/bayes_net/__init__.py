"""Bayesian networks: exact inference by junction tree, learning, and files."""
