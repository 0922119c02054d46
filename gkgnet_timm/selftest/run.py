"""The self-test: all checks of a device, one after the other."""

from typing import Iterator, Optional, Sequence

import torch

from .finding import Finding
from .kernels import check_kernels
from .machine import check_compiled
from .network import check_network, check_repeatability, create_network
from .shapes import SHAPES, Shape
from .speed import CPU, GPU, Load, check_speed

__all__ = ['selftest']


def selftest(
    device: torch.device, shapes: Sequence[Shape] = SHAPES, img_size: int = 224, load: Optional[Load] = None
) -> Iterator[Finding]:
    """Yield what each check finds as soon as it is known.

    Args:
        device: Device to check. The oracle works on the CPU.
        shapes: Shapes of nodes for the kernels.
        img_size: Side of the images of the small model.
        load: What to time (default: by the kind of device).
    """
    yield from check_kernels(device, shapes)
    yield check_compiled(device)
    model, images = create_network(img_size)
    yield from check_network(device, model, images)
    yield from check_repeatability(device, model, images)
    yield from check_speed(device, load or (GPU if device.type == 'cuda' else CPU))
