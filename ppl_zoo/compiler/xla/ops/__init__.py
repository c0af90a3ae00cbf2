"""Lowerings of aten operations to JAX, one table in files by kind of operation."""
