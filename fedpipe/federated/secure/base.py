"""What every protocol of secure aggregation is."""

from typing import ClassVar

from fedpipe.config.section import Section


class SecureAggregation(Section):
    """Let each update be seen where it is added up. Protocols differ from that; their fields are their parameters."""

    hides_updates: ClassVar[bool] = False
