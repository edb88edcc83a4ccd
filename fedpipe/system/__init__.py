"""What every other part of fedpipe stands on: files, randomness, the machine, the terminal and errors."""
