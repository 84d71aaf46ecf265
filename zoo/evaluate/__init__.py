"""How good an ink map is, against a fragment's label: `python -m zoo.evaluate PREDICTION FRAGMENT`.

As a library: `zoo.evaluate.score.evaluate`. Nothing is imported here, so that asking for help costs nothing.
"""
