"""The truth: sites, sightings, crops and embeddings in a database."""
