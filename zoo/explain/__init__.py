"""What a trained model does: which experts it mixes, and which layers its prediction rests on.

`python -m zoo.explain experts | depth`. As a library: `zoo.explain.experts.read_gates` and
`zoo.explain.depth.layer_importance`. Nothing is imported here, so that asking for help costs nothing.
"""
