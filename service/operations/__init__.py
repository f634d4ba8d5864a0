"""What operators watch and own: metrics, the HTTP port, the data folder."""
