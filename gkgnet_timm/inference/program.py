"""Exported models, `model.onnx` and `model.pt2`, that run as the model they are of."""

import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Union

import torch
import torch.nn as nn

from ..runtime import UserError, one_line
from ..weights.file import PROGRAMS, sha256
from ..weights.folder import CONFIG, read_model_config
from ..weights.thresholds import check_thresholds
from .pt2_archive import load_pt2

__all__ = ['STRIDE', 'Program', 'is_program', 'load_program', 'missing_extra']

STRIDE = 32  # of image sides, where a file takes any
Run = Callable[[torch.Tensor], Dict[str, torch.Tensor]]  # normalised images (B, C, H, W) -> outputs by name


def is_program(path: Optional[str]) -> bool:
    """Whether the name of a file is that of an exported model."""
    return str(path or '').endswith(PROGRAMS)


def missing_extra(error: ImportError) -> UserError:
    """The error for users without the packages of the extra `onnx`."""
    return UserError(f"ONNX needs the package {str(error.name).partition('.')[0]}: pip install 'gkgnet-timm[onnx]'.")


def _open_onnx(path: str) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra(error) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_mem_pattern = False  # it takes twice the memory for batches of several images
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    names = [output.name for output in session.get_outputs()]

    def run(images: torch.Tensor) -> Dict[str, torch.Tensor]:
        outputs = session.run(names, {'input': images.float().cpu().numpy()})
        return {name: torch.from_numpy(output).to(images.device) for name, output in zip(names, outputs)}

    return run


def _open_pt2(path: str) -> Run:
    program = load_pt2(path)

    def run(images: torch.Tensor) -> Dict[str, torch.Tensor]:
        return {name: output.to(images.device) for name, output in program(images.float().cpu()).items()}

    return run


class Program(nn.Module):
    """An exported model, with the interface of a timm model. It runs on the CPU, in the precision of the file.

    Args:
        path: The file.
        config: Content of the `config.json` beside it.
        img_size: Side of images, for a file that takes any size. None for that of the model.

    Attributes:
        pretrained_cfg: Preprocessing and class names, as of a timm model. `default_cfg` is the same.
        num_classes: Number of classes L.
        num_features: Width of the embedding D.
        is_dynamic: Whether it takes images of any size.
        size: Height and width of images, unless it does.
        thresholds: Lowest score of each label, None if the config has none.

    Raises:
        ValueError: If the file cannot be read, or takes images of one other size.
    """

    def __init__(self, path: Union[str, Path], config: Dict[str, Any], img_size: Optional[int] = None):
        super().__init__()
        self.path: str = str(path)
        self.pretrained_cfg: Dict[str, Any] = dict(config['pretrained_cfg'], architecture=config['architecture'])
        for key in ('num_classes', 'label_names'):
            if key in config:
                self.pretrained_cfg[key] = config[key]
        self.default_cfg: Dict[str, Any] = self.pretrained_cfg
        self.num_classes: int = self.pretrained_cfg['num_classes']
        self.num_features: int = config['exported']['embedding']
        self.is_dynamic: bool = config['exported']['dynamic_size']
        self.size: List[int]
        channels, *self.size = self.pretrained_cfg['input_size']
        if img_size:
            self._check_sides([img_size] * 2)
        if img_size and [img_size] * 2 != self.size:
            if not self.is_dynamic:
                raise ValueError(
                    f'{self.path!r} takes images of {self.size[0]} x {self.size[1]} alone (--img-size {img_size}): '
                    'export with --img-size, or with --dynamic-size.'
                )
            self.pretrained_cfg.update(input_size=(channels, img_size, img_size), pool_size=None)
        self.thresholds: Optional[List[float]] = None
        if 'thresholds' in config:
            names = self.pretrained_cfg.get('label_names') or ()
            self.thresholds = check_thresholds(config['thresholds'], names, f'{CONFIG} beside {self.path!r}')
        # what the state of a model tells those who continue a run: which weights it has
        self.register_buffer('digest', torch.tensor(list(bytes.fromhex(sha256(path))), dtype=torch.uint8))
        try:
            self._run = (_open_onnx if self.path.endswith('.onnx') else _open_pt2)(self.path)
        except UserError:
            raise
        except Exception as error:  # whatever onnxruntime and PyTorch raise for a file of another kind
            raise ValueError(f'{self.path!r} is not an exported model, or damaged: {one_line(error)}') from error

    def _check_sides(self, sides: List[int]) -> None:
        if self.is_dynamic and any(side % STRIDE or side < 2 * STRIDE for side in sides):
            raise ValueError(
                f'{self.path!r} takes images whose sides are multiples of {STRIDE} from {2 * STRIDE} on, not {sides}.'
            )

    def forward_features(self, images: torch.Tensor) -> Dict[str, torch.Tensor]:
        """All outputs by name, of images (B, C, H, W)."""
        if not self.is_dynamic and list(images.shape[2:]) != self.size:
            raise ValueError(f'{self.path!r} takes images of {self.size}, got {list(images.shape[2:])}.')
        self._check_sides(list(images.shape[2:]))
        try:
            return self._run(images)
        except Exception as error:  # whatever onnxruntime and PyTorch raise for images that a graph has no nodes for
            sides = ' x '.join(map(str, images.shape[2:]))
            raise ValueError(f'{self.path!r} fails for images of {sides}: {one_line(error)}') from error

    def forward_head(self, outputs: Dict[str, torch.Tensor], pre_logits: bool = False) -> torch.Tensor:
        """Logits (B, L), or the embedding (B, D)."""
        return outputs['embedding' if pre_logits else 'logits']

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, L) of images (B, C, H, W)."""
        return self.forward_head(self.forward_features(images))


def load_program(path: Union[str, Path], img_size: Optional[int] = None) -> Program:
    """Load an exported model of a folder that `export_model` wrote.

    Raises:
        FileNotFoundError: If there is no such file, or no `config.json` beside it.
        ValueError: See `Program`.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'Exported model {str(path)!r} does not exist.')
    source = Path(path).with_name(CONFIG)
    if not source.is_file():
        raise FileNotFoundError(f'{str(path)!r} has no {CONFIG} beside it, which says what its classes are.')
    config = read_model_config(source)
    exported = config.get('exported')
    is_known = isinstance(exported, dict) and isinstance(exported.get('dynamic_size'), bool)
    if not is_known or not isinstance(exported.get('embedding'), int):
        raise ValueError(f'{str(source)!r} is not of an export: python -m gkgnet_timm export writes both files.')
    return Program(path, config, img_size)
