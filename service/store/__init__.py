"""The database of sites, sightings, crops and embeddings."""
