"""The multilayer perceptron of McMahan et al. 2017 ("2NN"): 199,210 parameters on MNIST."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedpipe.models.base import Model
from fedpipe.spec import DataSpec

relu_backward = torch.ops.aten.threshold_backward


class TwoNN(Model):
    """784→200→200→10 on MNIST, ReLU after both hidden layers. McMahan et al. 2017, arXiv:1602.05629, section 3."""

    def build(self, spec: DataSpec) -> nn.Module:
        return _Network(spec)


class _Network(nn.Module):
    """Write backpropagation out: with 10 examples in a batch, autograd's bookkeeping would be a third of a step."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(spec.values, 200)
        self.hidden2 = nn.Linear(200, 200)
        self.output = nn.Linear(200, spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.hidden1(images.flatten(1)))
        return self.output(F.relu(self.hidden2(hidden)))

    def loss_and_gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the mean cross-entropy and its gradients in the order of `parameters()`."""
        loss, layers = self._backpropagate(images, labels)
        return loss, [gradient for _, h, d in layers for gradient in (d.t().mm(h), d.sum(0))]

    @torch.no_grad()
    def sgd_step(self, images: Tensor, labels: Tensor, lr: float) -> Tensor:
        """Take the step w ← w - lr ∂loss/∂w, adding each product to the weights as it is computed; return the loss."""
        loss, layers = self._backpropagate(images, labels)
        for layer, h, d in layers:
            layer.weight.addmm_(d.t(), h, alpha=-lr)
            layer.bias.sub_(d.sum(0), alpha=lr)
        return loss

    def _backpropagate(self, images: Tensor, labels: Tensor) -> tuple[Tensor, list[tuple[nn.Linear, Tensor, Tensor]]]:
        """Return the loss, and each layer with its input h (n, in) and d = ∂loss/∂(its output) (n, out)."""
        one, two, three = self.hidden1, self.hidden2, self.output
        x = images.flatten(1)
        h1 = torch.addmm(one.bias, x, one.weight.t()).relu_()
        h2 = torch.addmm(two.bias, h1, two.weight.t()).relu_()
        log_p = torch.addmm(three.bias, h2, three.weight.t()).log_softmax(1)
        loss = F.nll_loss(log_p, labels)
        one_hot = _identity(log_p.shape[1], labels.device)[labels]
        d3 = log_p.exp_().sub_(one_hot).div_(len(labels))  # ∂loss/∂logits
        d2 = relu_backward(d3.mm(three.weight), h2, 0)
        d1 = relu_backward(d2.mm(two.weight), h1, 0)
        return loss, [(one, x, d1), (two, h1, d2), (three, h2, d3)]


@lru_cache
def _identity(classes: int, device: torch.device) -> Tensor:
    return torch.eye(classes, device=device)
