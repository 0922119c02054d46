"""The loss of a configuration, beside what tests of the losses say."""

import pytest
import torch

from gkgnet_timm.training.config import TrainConfig
from gkgnet_timm.training.criterion import create_criterion


@pytest.mark.parametrize('beta', [0.01, 0.9, 0.999])
def test_weights_by_the_effective_number_of_images(beta):
    """Weights (1 - beta) / (1 - beta^n), of mean 1, as gradients show them."""
    counts = torch.tensor([1, 10, 90])
    config = TrainConfig('demo', loss='bce', loss_class_weight='effective_num', loss_weight_beta=beta)
    criterion = create_criterion(config, 3, (counts, 100))
    logits = torch.zeros(2, 3, requires_grad=True)
    criterion(logits, torch.zeros(2, 3)).backward()
    weights = (1 - beta) / (1 - beta**counts)
    torch.testing.assert_close(logits.grad, (weights / weights.mean() * 0.5 / 6).expand(2, 3))
