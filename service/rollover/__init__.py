"""Rollover: a site gets another model, while it answers with the one before."""
