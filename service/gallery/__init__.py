"""Galleries: enroll, list, search and delete, with one index per site."""
