"""Prediction: a trained model over a region of any size, by overlapping tiles that are blended."""
