"""Lowerings of aten operations to JAX: one table, a file for each group of operations."""
