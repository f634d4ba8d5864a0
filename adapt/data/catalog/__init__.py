"""Which crops there are: published sets, site folders, manifests, and which of them are used."""
