"""Mixers: layers that mix tokens over time."""
