"""The benchmark: one suite, one budget, every model in a fresh process, one Result file a run."""
