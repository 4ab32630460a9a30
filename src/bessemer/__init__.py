"""Bessemer: train models, run them, and answer for them."""

__version__ = "0.1.0"
