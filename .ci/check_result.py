"""Check, after a full run on MNIST, that the result is good and that the repository holds what the code produces."""

import math
import subprocess
import sys

from fedpipe.results.verify import verify
from fedpipe.system.files import read_json

MIN_ACCURACY, MAX_LOSS = 0.985, 0.048  # the reference's published result

result = read_json("reports/comparison.json")["federated"]
loss = math.nan if result["loss"] is None else result["loss"]  # it is null where training diverged
print(f"{result['dataset']}: federated accuracy {result['accuracy']:.2%}, loss {loss:.4f}")
if result["dataset"] != "MNIST" or result["accuracy"] < MIN_ACCURACY or not loss <= MAX_LOSS:
    sys.exit(f"not on MNIST, or below {MIN_ACCURACY:.1%}, or above a loss of {MAX_LOSS}")

if verify().exact:  # else `fedpipe verify` has held the metrics to its tolerance
    changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    if changed:
        sys.exit(f"the run changed what is committed:\n{changed}")
    print("the repository is clean: the committed lock, metrics and figures are what this code produces")
