"""From folders of crops to batches: catalog, then decoding, then batches."""
