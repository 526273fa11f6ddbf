"""The Inception v3 of FID: torchvision's network, but for its pooling branches.

    fid_inception_v3()        # untrained; FID's layers are its modules maxpool1, maxpool2, Mixed_6e and avgpool

In the published TensorFlow graph an average at the border is one over what is inside the picture, the last block
takes maxima instead, and there are 1,008 classes (github.com/mseitzer/pytorch-fid, whose checkpoint this fits).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, max_pool2d
from torchvision.models import inception_v3
from torchvision.models.inception import InceptionA, InceptionC, InceptionE


def fid_inception_v3() -> nn.Module:
    """The network, its parameters as torch draws them; it takes (samples, 3, 299, 299) in [-1, 1]."""
    network = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    for block in network.children():
        if type(block) in POOLED:
            block.__class__ = POOLED[type(block)]  # the same parameters under the same names
    network.Mixed_7c.__class__ = MaximumE
    return network  # type: ignore[no-any-return]


class PooledA(InceptionA):  # type: ignore[misc]
    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(average(x)),
        ]


class PooledC(InceptionC):  # type: ignore[misc]
    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return [
            self.branch1x1(x),
            single,
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(average(x)),
        ]


class PooledE(InceptionE):  # type: ignore[misc]
    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return average(x)

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pooled(x)),
        ]


class MaximumE(PooledE):
    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return max_pool2d(x, 3, stride=1, padding=1)


def average(x: torch.Tensor) -> torch.Tensor:
    return avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


POOLED: dict[type[nn.Module], type[nn.Module]] = {InceptionA: PooledA, InceptionC: PooledC, InceptionE: PooledE}
