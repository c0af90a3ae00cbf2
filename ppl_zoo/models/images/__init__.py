"""Priors of images and their patches."""

from ppl_zoo.models.images.epll import EPLL

__all__ = ["EPLL"]
