"""Use a trained model: its file, predictions for images from elsewhere, and exports to other programs."""
