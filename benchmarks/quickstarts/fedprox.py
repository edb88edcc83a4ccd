"""Three rounds of FedProx on MNIST, with everything else as fedpipe has it."""

import fedpipe

print(fedpipe.run(strategy="fedprox", rounds=3))
