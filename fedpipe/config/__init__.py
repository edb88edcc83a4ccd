"""Parameters as objects: a `Section` is a block of parameters, read from params.yaml or made in Python."""
