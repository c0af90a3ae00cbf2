"""Bayes nets: exact inference by junction tree, learning, and files."""
