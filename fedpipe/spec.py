"""What a network must know of a data set before it sees an example."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSpec:
    """Say what the images and labels of a data set are like.

    Networks take images (n, channels, height, width) float32, normalised for each channel: (pixels / 255 - mean) / std.
    On disk and in memory images are (n, height, width, channels) uint8.
    """

    height: int  # pixels
    width: int
    channels: int  # 1 for grey images, 3 for red, green and blue
    classes: int  # labels are 0..classes-1
    mean: tuple[float, ...]  # of each channel's pixels, where black is 0 and white is 1
    std: tuple[float, ...]  # their standard deviation

    @property
    def values(self) -> int:
        """The numbers in an image: height times width times channels."""
        return self.height * self.width * self.channels

    def require_normalisation(self) -> None:
        """Check that images can be normalised.

        Raises:
            ValueError: there is not a mean and a standard deviation for each channel, or one of the latter is 0.
        """
        if not len(self.mean) == len(self.std) == self.channels or not all(self.std):
            raise ValueError("not a mean and a standard deviation for each channel")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image as it is kept: height, width, channels."""
        return self.height, self.width, self.channels
