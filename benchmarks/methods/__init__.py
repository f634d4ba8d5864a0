"""All methods side by side, with what they have to beat."""
