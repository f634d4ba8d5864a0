"""For operators: metrics, the HTTP port, the data folder."""
