"""Make a data set of colour images, a folder for each client with a folder for each digit in it.

Five clients write digits, each in colours of its own, so that their images differ as those of cameras or scanners do:

    python examples/colour_digits.py data/own/colours
    dvc exp run -S download.dataset=own -S download.path=data/own/colours -S partition.scheme=natural \
                -S partition.clients=5 -S model.name=resnet

The digits are those of MNIST's sample.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fedpipe.data.sources import offline_sample

COLOURS = {  # of each client's paper and ink: red, green, blue
    "anna": ((250, 246, 235), (20, 30, 120)),
    "ben": ((255, 255, 255), (20, 20, 20)),
    "cleo": ((30, 80, 50), (240, 240, 225)),
    "dina": ((235, 215, 180), (110, 50, 20)),
    "emil": ((200, 220, 245), (180, 20, 40)),
}
EACH = 40  # images of a digit, of a client


def main(folder: Path) -> None:
    digits = offline_sample().train
    for label in range(10):
        images = digits.images[digits.labels == label].numpy()
        for number, (client, (paper, ink)) in enumerate(COLOURS.items()):
            target = folder / client / str(label)
            target.mkdir(parents=True, exist_ok=True)
            for place in range(EACH):
                share = images[number * EACH + place] / 255  # (28, 28, 1), of ink
                pixels = (1 - share) * np.array(paper) + share * np.array(ink)
                Image.fromarray(pixels.round().astype(np.uint8)).save(target / f"{place:03}.png")
    print(f"{folder}: {len(COLOURS)} clients with {10 * EACH} images each")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data/own/colours"))
