"""The server under attack: memory, descriptors, and what another client sees meanwhile."""
