"""What several methods share besides losses and labels."""
