"""Models of discrete variables."""

__all__: list[str] = []
