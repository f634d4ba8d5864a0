"""Figures of a model on a site without labels."""
