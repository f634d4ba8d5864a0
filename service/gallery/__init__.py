"""The store and its index as one: enroll, list, search, delete."""
