"""Autoregressive models."""

__all__: list[str] = []
