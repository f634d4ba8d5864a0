"""The gRPC edge: requests in, answers out, nothing else."""
