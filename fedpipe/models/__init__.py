"""The networks that can be trained.

To add one: a file with a `Model`, and its name in MODELS.
"""

from pydantic import Field

from fedpipe.config.section import Section, choice
from fedpipe.models.base import Architecture, Model
from fedpipe.models.logistic import Logistic
from fedpipe.models.paper_cnn import PaperCNN
from fedpipe.models.reference_cnn import ReferenceBatchNormCNN, ReferenceCNN
from fedpipe.models.two_nn import TwoNN

__all__ = ["MODELS", "Architecture", "Model", "ModelChoice"]

MODELS: dict[str, type[Model]] = {
    "reference-cnn": ReferenceCNN,
    "reference-bn-cnn": ReferenceBatchNormCNN,
    "paper-cnn": PaperCNN,
    "2nn": TwoNN,
    "logistic": Logistic,
}


@choice("name", MODELS, Model)
class ModelChoice(Section):
    """Choose the network that is trained."""

    name: str = Field(
        default="reference-cnn",
        description="reference-cnn has two 5x5 convolutions of 16 and 32 channels and a linear layer, 28,938 "
        "parameters; reference-bn-cnn normalises batches after each convolution. paper-cnn and 2nn are those of "
        "McMahan et al. 2017, with 1,663,370 and 199,210 parameters. logistic is logistic regression, with 7,850.",
    )

    @property
    def model(self) -> Model:
        return self.chosen("name", Model)
