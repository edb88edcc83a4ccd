"""The parameters of the model: block `model` of params.yaml."""

from pydantic import Field

from fedpipe.config.section import Section, choice
from fedpipe.models import MODELS
from fedpipe.models.base import Model


@choice("name", MODELS, Model)
class ModelChoice(Section):
    """Choose the network that is trained."""

    name: str = Field(
        default="reference-cnn",
        description="On MNIST, reference-cnn has two 5x5 convolutions of 16 and 32 channels and a linear layer, 28,938 "
        "parameters; reference-bn-cnn normalises batches after each convolution. paper-cnn and 2nn are those of "
        "McMahan et al. 2017, with 1,663,370 and 199,210 parameters. logistic is logistic regression, with 7,850. "
        "resnet is a residual network with group normalisation, for colour images.",
    )

    @property
    def model(self) -> Model:
        return self.chosen("name", Model)
