"""Rollover: a site gets another model, and answers with the one before until the end."""
