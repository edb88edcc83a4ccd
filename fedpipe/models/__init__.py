"""The networks that can be trained.

To add one: a file with a `Model`, and its name in MODELS.
"""

from fedpipe.models.base import Model
from fedpipe.models.logistic import Logistic
from fedpipe.models.paper_cnn import PaperCNN
from fedpipe.models.reference_cnn import ReferenceBatchNormCNN, ReferenceCNN
from fedpipe.models.resnet import ResNet
from fedpipe.models.two_nn import TwoNN

MODELS: dict[str, type[Model]] = {
    "reference-cnn": ReferenceCNN,
    "reference-bn-cnn": ReferenceBatchNormCNN,
    "paper-cnn": PaperCNN,
    "2nn": TwoNN,
    "logistic": Logistic,
    "resnet": ResNet,
}
