"""Training: `python -m zoo.train`, and the one loop behind it and behind the benchmark."""
