"""Other systems set to the same works: each runner here uses its own system and torch, and nothing of this project."""
