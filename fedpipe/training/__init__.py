"""The one training loop, its optimisers, evaluation, and the device and precision of both."""
