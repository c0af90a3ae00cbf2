"""XLA: captured torch graphs as JAX functions.

JAX is imported below this folder and nowhere above it.
"""
