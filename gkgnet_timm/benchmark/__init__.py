"""Time and memory of the models, against the dense graph of the published code and other models of timm."""

from .command import main

__all__ = ['main']
