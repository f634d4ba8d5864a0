"""What a run computes on: device, precision, processes, threads, progress, arrays on disk."""
