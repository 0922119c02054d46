"""Write a model as files that run elsewhere, with all that others need beside them, and prove them."""

import copy
import json
import math
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch.nn as nn

from timm.data.model_config import get_model_input_config

from ..class_names import check_names
from ..data.decode import Decoder
from ..data.images import find_images
from ..data.progress_bar import say
from ..inference.predictor import class_names_of
from ..inference.program import STRIDE, load_program
from ..models._compat import get_model_traits, save_config_for_hf
from ..runtime import clear_drafts, locked, one_line
from ..weights.folder import CONFIG, EXPORTED, PROGRAMS
from ..weights.preprocessing import resolve_preprocessing
from ..weights.thresholds import check_thresholds
from .check import Difference, Expected, compare, expect, load_images
from .files import readme, sidecars
from .half import halve
from .int8 import quantize
from .outputs import Outputs, example_images, free_sizes
from .record import check_packages, record_onnx, record_pt2
from .report import ExportedFile, count_nodes, describe

__all__ = ['FORMATS', 'export_model']

FORMATS = ('onnx', 'pt2')
ONNX, HALF, INT8, PT2 = 'model.onnx', 'model_fp16.onnx', 'model_int8.onnx', 'model.pt2'
EXACT = ONNX, PT2  # in float32
CALIBRATION = 100  # images at most


def _check_folder(folder: Path) -> None:
    """Raise an error if a folder has files of somebody else."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f'--output {str(folder)!r} is a file, give a folder.')
    others = sorted(p.name for p in folder.glob('*') if p.name not in EXPORTED and not p.name.startswith('.'))
    if others:
        raise FileExistsError(f'--output {str(folder)!r} has other files, such as {others[0]!r}: give a new folder.')
    if (folder / CONFIG).is_file() and not (folder / 'selected_tags.csv').is_file():
        raise FileExistsError(f'--output {str(folder)!r} has a {CONFIG} that is not of an export: give a new folder.')


def _prepare(model: nn.Module, img_size: Any, dynamic_size: bool) -> nn.Module:
    """A copy of a model for inference, at an image size."""
    if not hasattr(model, 'pretrained_cfg') or not hasattr(model, 'forward_head'):
        raise ValueError(f'{type(model).__name__} is not a timm model: it has no pretrained_cfg or forward_head.')
    if not model.num_classes:
        raise ValueError('The model has no classes (num_classes=0), there is nothing to predict.')
    model = copy.deepcopy(model).to('cpu').float().eval()
    is_fixed = get_model_traits(model)['fixed_input_size']
    if dynamic_size and is_fixed:
        raise ValueError(
            f'{type(model).__name__} takes images of one size (--dynamic-size). Models that have the argument take any '
            'with --model-kwargs dynamic_img_size=True.'
        )
    if img_size:
        try:
            if hasattr(model, 'set_input_size'):
                model.set_input_size(img_size)
        except Exception as error:  # whatever models raise for sizes that they cannot have
            raise ValueError(f'Image size {img_size} (--img-size): {one_line(error)}') from error
    # a model that was created at another size does not tell its `pretrained_cfg`
    channels, *sides = get_model_input_config(model)['input_size']
    if img_size:
        sides = [img_size, img_size] if isinstance(img_size, int) else list(img_size)
    if sides != list(model.pretrained_cfg['input_size'][1:]):
        model.pretrained_cfg = dict(model.pretrained_cfg, input_size=(channels, *sides), pool_size=None)
    return model


def _thresholds(model: nn.Module, names: Sequence[str], given: Optional[Sequence[float]]) -> List[float]:
    """The lowest score of each label: as given, else that of the weights, else 0.5."""
    stored = getattr(model, 'thresholds', None)
    thresholds = list(given if given is not None else stored if stored is not None else [0.5] * len(names))
    if len(thresholds) != len(names):
        raise ValueError(f'{len(thresholds)} thresholds for {len(names)} classes.')
    return check_thresholds({name: float(value) for name, value in zip(names, thresholds)}, names, 'The export')


def _write_config(
    folder: Path, model: nn.Module, names: List[str], thresholds: Sequence[float], exported: Dict[str, Any]
) -> Dict[str, Any]:
    """Write `config.json` and return its content."""
    content: Dict[str, Any] = dict(label_names=names, exported=exported)
    if len({*thresholds} - {0.5}):  # that of every command
        content['thresholds'] = dict(zip(names, thresholds))
    save_config_for_hf(model, str(folder / CONFIG), content)
    return json.loads((folder / CONFIG).read_text(encoding='utf-8'))


def _check_options(formats: Sequence[str], of_onnx: Dict[str, Any], calibration_images: Any) -> None:
    """Raise an error if options contradict each other, or packages are missing."""
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f'Unknown format {unknown[0]!r} (--format), expected {", ".join(FORMATS)}.')
    if not formats:
        raise ValueError(f'No format (--format), expected {", ".join(FORMATS)}.')
    given = [f'--{name}' for name, value in of_onnx.items() if value]
    if given and 'onnx' not in formats:
        raise ValueError(f'{", ".join(given)}: of ONNX alone, add --format onnx.')
    if of_onnx['int8'] and not calibration_images:
        raise ValueError('--int8 needs --calibration-images DIR, images as those that it will see.')
    if 'onnx' in formats:
        check_packages()


def _prove(path: Path, proof: Path, expected: List[Expected], limits: np.ndarray) -> Difference:
    """Compare a file with PyTorch, and its neighbours in a second file if there is one.

    Raises:
        ValueError: If a file in float32 is wrong.
    """
    found = compare(load_program(path).forward_features, expected, limits)
    if path.name not in EXACT:
        if not math.isfinite(found.double):
            raise ValueError(f'{path.name} gives logits that are not finite. Nothing was written.')
        return found
    if path.suffix == proof.suffix and proof.is_file():
        other = compare(load_program(proof).forward_features, expected, limits)
        found = found._replace(
            neighbors=other.neighbors,
            single_neighbors=other.single_neighbors,
            is_right=found.is_right and other.is_right,
        )
    if not found.is_right:
        raise ValueError(
            f'{path.name} differs from PyTorch: its logits are {found.double:.2g} from those in float64, those of '
            f'PyTorch in float32 {found.single:.2g}; equal neighbours {found.neighbors}. Nothing was written.'
        )
    return found


def export_model(
    model: nn.Module,
    folder: Union[str, Path],
    *,
    formats: Sequence[str] = FORMATS,
    img_size: Union[int, Tuple[int, int], None] = None,
    dynamic_size: bool = False,
    half: bool = False,
    int8: bool = False,
    neighbors: bool = False,
    opset: Optional[int] = None,
    calibration_images: Union[str, Path, None] = None,
    class_names: Optional[Sequence[str]] = None,
    thresholds: Optional[Sequence[float]] = None,
) -> List[ExportedFile]:
    """Write a model as `model.onnx` and `model.pt2`, and compare them with PyTorch.

    Both take normalised images (B, C, H, W) in float32 and any number of them, and give `prediction`, `logits` and
    `embedding`. Beside them are `selected_tags.csv`, `thresholds.csv`, `categories.json` and `preprocess.json`, a
    `config.json` and a `README.md` with code that uses them.

    Args:
        model: timm model, with the weights and the `pretrained_cfg` that it is to have. It stays as it is.
        folder: Where to write, created if it does not exist.
        formats: Of `FORMATS`.
        img_size: Side or (height, width) in pixels, None for that of the model.
        dynamic_size: Take images whose sides are any multiples of 32.
        half: Also write `model_fp16.onnx`, with weights in half precision, computed with in float32.
        int8: Also write `model_int8.onnx`, scaled by `calibration_images`; the search stays in float32.
        neighbors: Give the graph of ONNX the output `neighbors`, which `model.pt2` always has.
        opset: Version of ONNX's operators, None for PyTorch's default.
        calibration_images: Image, folder or pattern. The files are also compared on some of them, else on drawn scenes.
        class_names: L names, None for those of the model, else numbered ones.
        thresholds: Lowest score of each label, None for those of the model, else 0.5.

    Returns:
        The files, and how far each is from PyTorch.

    Raises:
        FileExistsError: If the folder has other files.
        UserError: If packages of the extra `onnx` are missing.
        ValueError: If options contradict each other, or the model cannot be exported, or not so that it is right.
    """
    folder, formats = Path(folder), [formats] if isinstance(formats, str) else list(formats)
    _check_options(formats, dict(half=half, int8=int8, neighbors=neighbors, opset=opset), calibration_images)
    images = find_images([str(calibration_images)]) if calibration_images else []
    _check_folder(folder)
    model = _prepare(model, img_size, dynamic_size)
    outputs = Outputs(model)
    if neighbors and not outputs.has_neighbors:
        raise ValueError(f'--neighbors: {type(model).__name__} has no label graph.')
    names = check_names(list(class_names if class_names is not None else class_names_of(model)), 'The export')
    if len(names) != model.num_classes:
        raise ValueError(f'{len(names)} class names for {model.num_classes} classes.')
    limits = _thresholds(model, names, thresholds)
    preprocessing = resolve_preprocessing(model)
    background = Decoder().for_model(model.pretrained_cfg).trained.get('background', 'white')
    texts = sidecars(preprocessing, names, limits, background)
    say('Running PyTorch, to compare with.')
    expected = expect(model, preprocessing, images, dynamic_size)
    exported = dict(
        formats=formats,
        dynamic_size=dynamic_size,
        embedding=expected[0].single['embedding'].shape[1],
        outputs=['prediction', 'logits', 'embedding', *(['neighbors'] if neighbors else [])],
    )
    example = example_images(preprocessing['input_size'], dynamic_size, STRIDE)
    recording = dict(images=example, sizes=free_sizes(dynamic_size, STRIDE))
    files: List[ExportedFile] = []
    with locked(folder, 'export'):
        clear_drafts(folder, '.export-', age=0)  # of a run that was killed, as no other is at work
        with tempfile.TemporaryDirectory(prefix='.export-', dir=folder) as place:
            draft = Path(place)
            config = _write_config(draft, model, names, limits, exported)
            proof = draft / 'proof.onnx'
            steps: Dict[str, Callable[[Path], None]] = {}
            if 'onnx' in formats:
                first = proof if outputs.has_neighbors and not neighbors else None
                steps[ONNX] = partial(record_onnx, outputs, opset=opset, proof=first, **recording)
            if half:
                steps[HALF] = partial(halve, draft / ONNX)
            if int8:
                batches = load_images(model, preprocessing, images, min(CALIBRATION, len(images))).split(1)
                steps[INT8] = partial(quantize, draft / ONNX, batches=batches)
            if 'pt2' in formats:
                steps[PT2] = partial(record_pt2, outputs, **recording)
            for name, write in steps.items():
                say(f'Writing {name}.')
                start = time.monotonic()
                path = draft / name
                write(path)
                seconds = time.monotonic() - start
                found = _prove(path, proof, expected, np.asarray(limits))
                files.append(ExportedFile(folder / name, seconds, path.stat().st_size, count_nodes(path), found))
            for old in draft.glob('proof.*'):
                old.unlink()
            texts['README.md'] = readme(config, preprocessing, describe(files))
            for name, text in texts.items():
                (draft / name).write_text(text, encoding='utf-8')
            written = sorted(draft.iterdir())
            for path in written:
                os.replace(path, folder / path.name)
            for name in {*PROGRAMS} - {path.name for path in written}:  # of an earlier export, of another model
                (folder / name).unlink(missing_ok=True)
    return files
