"""Other systems set to the same workloads: each runner uses its own system and torch, and nothing of this project."""
