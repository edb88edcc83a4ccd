"""From the updates of a round's clients to one."""

from fedpipe.aggregation.mean import weighted_mean

__all__ = ["weighted_mean"]
