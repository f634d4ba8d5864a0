"""From image bytes to embeddings: decode, batch, run the model."""
