"""Multi-label training, with the flag names of timm."""

from ..training.run import main

__all__ = ['main']
