"""From decoded crops to augmented batches on the device."""
