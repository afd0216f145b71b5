"""The part of a generator that its noise goes through first.

This file stands beside its weights in a pipeline's folder. It needs torch and diffusers.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


class GaussianStart(ModelMixin, ConfigMixin):
    """Gives normal noise z the mean and the principal axes of noisy data: ``z + mean + sum_k gains_k <axes_k, z> axes_k``.

    Args:
        count: number of axes.
        size: numbers of a sample.
    """

    @register_to_config
    def __init__(self, count, size):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.axes = nn.Parameter(torch.zeros(count, size), requires_grad=False)
        self.gains = nn.Parameter(torch.zeros(count), requires_grad=False)

    def forward(self, source):
        """Returns a tensor in the shape of ``source``."""
        z = source.flatten(1)
        along = (z @ self.axes.mT) * self.gains
        return (z + self.mean + along @ self.axes).reshape(source.shape)
