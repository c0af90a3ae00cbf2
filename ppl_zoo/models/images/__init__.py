"""Models of images and their patches."""

__all__: list[str] = []
