"""From image files to decoded crops in memory or in a mapped file."""
