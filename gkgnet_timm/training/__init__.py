"""What the training script is assembled from."""
