"""Executable companion to *Learning Neural Eigenfunctions for Unsupervised Semantic Segmentation* (ICCV 2023)."""

from importlib.metadata import version

__version__ = version("neuralef")
