"""A case of the benchmark: a model at a size, and one pass or training step of it."""

from dataclasses import dataclass
from typing import Callable

import torch
import torch.nn as nn

import timm

from ..loss import GKGNetLoss
from .dense_model import use_dense_graph

__all__ = ['Case', 'create_step', 'create_timm_model']


@dataclass(frozen=True)
class Case:
    """One row of the benchmark.

    Args:
        model: Name in timm.
        img_size: Side of the images.
        batch_size: Images per pass or step.
        dtype: float32, or the type of autocast.
        device: cpu, cuda or cuda:N.
        num_classes: Classes of the model.
        mode: eager, compiled, dense (the graph of the published code) or checkpointing. With ' replayed' after it, the
            pass or step is recorded as a CUDA graph.
        is_ours: Whether this is a model of this package, not one to compare it with.
        is_training: Measure a training step instead of inference.
        backend: Backend of torch.compile.
    """

    model: str
    img_size: int
    batch_size: int = 1
    dtype: str = 'float32'
    device: str = 'cpu'
    num_classes: int = 80
    mode: str = 'eager'
    is_ours: bool = True
    is_training: bool = False
    backend: str = 'inductor'

    @property
    def is_replayed(self) -> bool:
        return self.mode.endswith(' replayed')


def create_timm_model(name: str, img_size: int, num_classes: int) -> nn.Module:
    """Create a timm model for images of a size, in whichever way it accepts one."""
    torch.manual_seed(0)  # the same weights whatever the mode
    try:
        return timm.create_model(name, img_size=img_size, num_classes=num_classes)
    except TypeError:  # convolutional networks have no argument img_size
        model = timm.create_model(name, num_classes=num_classes)
    if hasattr(model, 'set_input_size'):
        model.set_input_size(img_size=(img_size, img_size))
    return model


def create_model(case: Case) -> nn.Module:
    """Create the model of a case on its device, not compiled yet."""
    model = create_timm_model(case.model, case.img_size, case.num_classes)
    if case.mode.startswith('dense'):
        use_dense_graph(model)
    if case.mode == 'checkpointing':
        model.set_grad_checkpointing(True)
    return model.to(case.device).train(case.is_training)


def record(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Return a function that replays a pass or step, as a CUDA graph."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # kernels are compiled and chosen, the optimizer gets its state
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            step()

    def replay(kept: Callable[[], None] = step) -> None:  # the graph reads and writes what the step holds
        graph.replay()

    return replay


def create_step(case: Case, model: nn.Module) -> Callable[[], None]:
    """Return a function that runs one pass over fixed images, or one training step with GKGNetLoss and AdamW."""
    device, dtype = torch.device(case.device), getattr(torch, case.dtype)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(case.batch_size, 3, case.img_size, case.img_size, generator=generator).to(device)
    autocast = dict(device_type=device.type, dtype=None if dtype == torch.float32 else dtype)
    autocast['enabled'] = dtype != torch.float32
    forward = torch.compile(model, backend=case.backend) if case.mode == 'compiled' else model

    def infer() -> None:
        with torch.inference_mode(), torch.autocast(**autocast):
            forward(images)

    if not case.is_training:
        return record(infer, device) if case.is_replayed else infer
    # of a replayed step, the optimizer has to count on the device
    criterion, optimizer = GKGNetLoss(), torch.optim.AdamW(model.parameters(), capturable=case.is_replayed)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    target = (torch.arange(case.num_classes, device=device) % 20 == 0).float().expand(case.batch_size, -1)  # 4 of 80

    def train() -> None:
        with torch.autocast(**autocast):
            loss = criterion(forward(images), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return record(train, device) if case.is_replayed else train
