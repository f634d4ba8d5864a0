"""Moving a site to another model."""
