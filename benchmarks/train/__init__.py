"""Speed and safety of adaptation: `python -m benchmarks.train`."""
