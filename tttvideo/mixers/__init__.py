"""Mixers: what mixes tokens over time."""
