"""Measures of trained models, as functions of a model and data."""
