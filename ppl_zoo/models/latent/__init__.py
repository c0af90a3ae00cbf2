"""Models with continuous latent variables."""

__all__: list[str] = []
