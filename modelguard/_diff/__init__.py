"""What exactly was done to these weights: a streaming, classifying diff of model checkpoints."""
