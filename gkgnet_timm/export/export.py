"""Write a model as files that run elsewhere, with all that others need beside them, and prove them."""

import copy
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import torch.nn as nn

from timm.data.model_config import get_model_input_config

from ..data.images import find_images
from ..data.progress_bar import say
from ..inference.predictor import class_names_of
from ..inference.program import load_program
from ..models._compat import get_model_traits, save_config_for_hf
from ..runtime import clear_drafts, locked, one_line
from ..weights.folder import CONFIG
from ..weights.preprocessing import resolve_preprocessing
from .check import Difference, compare, expect, load_images
from .files import readme, sidecars
from .int8 import quantize
from .outputs import Outputs, example_images, free_sizes
from .record import record_onnx, record_pt2

__all__ = ['FORMATS', 'ExportedFile', 'describe', 'export_model']

FORMATS = ('onnx', 'pt2')
FILES = ('model.onnx', 'model_fp16.onnx', 'model_int8.onnx', 'model.pt2')
BESIDE = ('selected_tags.csv', 'thresholds.csv', 'categories.json', 'preprocess.json', 'README.md', CONFIG)
STRIDE = 32  # of image sides, with --dynamic-size
CALIBRATION = 100  # images at most


class ExportedFile(NamedTuple):
    """A file that `export_model` wrote."""

    path: Path
    seconds: float  # that it took
    size: int  # bytes
    nodes: Optional[int]  # of a graph of ONNX
    difference: Difference


def _check_folder(folder: Path) -> None:
    """Raise an error if a folder has files of somebody else."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f'--output {str(folder)!r} is a file, give a folder.')
    known = (*FILES, *BESIDE, *(f'{name}.data' for name in FILES))
    others = sorted(p.name for p in folder.glob('*') if p.name not in known and not p.name.startswith('.'))
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
    thresholds = list(given or getattr(model, 'thresholds', None) or [0.5] * len(names))
    if len(thresholds) != len(names):
        raise ValueError(f'{len(thresholds)} thresholds for {len(names)} classes.')
    return thresholds


def _config(
    folder: Path, model: nn.Module, names: List[str], thresholds: Sequence[float], exported: Dict[str, Any]
) -> Dict[str, Any]:
    """Write `config.json` and return its content."""
    content: Dict[str, Any] = dict(label_names=names, exported=exported)
    content['thresholds'] = {name: float(value) for name, value in zip(names, thresholds)}
    save_config_for_hf(model, str(folder / CONFIG), content)
    return json.loads((folder / CONFIG).read_text(encoding='utf-8'))


def _count_nodes(path: Path) -> Optional[int]:
    if path.suffix != '.onnx':
        return None
    import onnx

    return len(onnx.load(path, load_external_data=False).graph.node)


def describe(files: Sequence[ExportedFile]) -> str:
    """A table of files and how far they are from PyTorch, in Markdown."""

    def share(value: Optional[float]) -> str:
        return '-' if value is None else f'{100 * value:.2f} %'

    lines = [
        '| file | MB | nodes | largest difference of logits | mean of scores | equal labels | equal neighbours '
        '| median distance from float64 | of PyTorch in float32 |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for path, _, size, nodes, d in files:
        neighbors = (
            '-'
            if d.neighbors is None
            else f'{share(d.neighbors)} (of PyTorch and float64: {share(d.single_neighbors)})'
        )
        cells = [
            path.name,
            f'{size / 1e6:.1f}',
            str(nodes or '-'),
            f'{d.logits:.2g}',
            f'{d.scores:.2g}',
            share(d.labels),
        ]
        lines.append('| ' + ' | '.join([*cells, neighbors, f'{d.double:.2g}', f'{d.single:.2g}']) + ' |')
    return '\n'.join(lines)


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
        half: Also write `model_fp16.onnx`, with weights in half precision and the search in float32.
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
    folder = Path(folder)
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f'Unknown format {unknown[0]!r} (--format), expected {", ".join(FORMATS)}.')
    if not formats:
        raise ValueError(f'No format (--format), expected {", ".join(FORMATS)}.')
    if (half or int8 or neighbors or opset) and 'onnx' not in formats:
        raise ValueError('--half, --int8, --neighbors and --opset are of ONNX: add --format onnx.')
    if int8 and not calibration_images:
        raise ValueError('--int8 needs --calibration-images DIR, images as those that it will see.')
    images = find_images([str(calibration_images)]) if calibration_images else []
    _check_folder(folder)
    model = _prepare(model, img_size, dynamic_size)
    outputs = Outputs(model)
    if neighbors and not outputs.has_neighbors:
        raise ValueError(f'--neighbors: {type(model).__name__} has no label graph.')
    names = list(class_names or class_names_of(model))
    if len(names) != model.num_classes:
        raise ValueError(f'{len(names)} class names for {model.num_classes} classes.')
    limits = _thresholds(model, names, thresholds)
    preprocessing = resolve_preprocessing(model)
    example = example_images(preprocessing['input_size'], dynamic_size, STRIDE)
    sizes = free_sizes(dynamic_size, STRIDE)
    say('Running PyTorch, to compare with.')
    expected = expect(model, preprocessing, images, dynamic_size)
    exported = dict(
        formats=list(formats),
        dynamic_size=dynamic_size,
        embedding=expected[0].single['embedding'].shape[1],
        outputs=['prediction', 'logits', 'embedding', *(['neighbors'] if neighbors else [])],
    )

    def write(draft: Path) -> Iterator[Tuple[str, float]]:
        """Write the files one after another, and yield the name of each and the seconds it took."""
        start = time.monotonic()
        if 'onnx' in formats:
            with_neighbors = draft / 'neighbors.onnx' if outputs.has_neighbors else None
            record_onnx(outputs, draft / FILES[0], example, sizes, opset, with_neighbors)
            yield FILES[0], time.monotonic() - start
        if half:
            start = time.monotonic()
            record_onnx(Outputs(model, torch.float16), draft / FILES[1], example, sizes, opset, None)
            yield FILES[1], time.monotonic() - start
        if int8:
            start = time.monotonic()
            batches = load_images(model, preprocessing, images, CALIBRATION).split(1)
            quantize(draft / FILES[0], draft / FILES[2], list(batches))
            yield FILES[2], time.monotonic() - start
        if 'pt2' in formats:
            start = time.monotonic()
            record_pt2(outputs, draft / FILES[3], example, sizes)
            yield FILES[3], time.monotonic() - start

    files: List[ExportedFile] = []
    with locked(folder, 'export'):
        clear_drafts(folder, '.export-', age=0)  # of a run that was killed, as no other is at work
        with tempfile.TemporaryDirectory(prefix='.export-', dir=folder) as place:
            draft = Path(place)
            config = _config(draft, model, names, limits, exported)
            say('Recording.')
            for name, seconds in write(draft):
                say(f'{name}: {seconds:.0f} s. Comparing.')
                program = load_program(draft / name)
                difference = compare(program.forward_features, expected, np.asarray(limits))
                if name == FILES[0] and outputs.has_neighbors:
                    program = load_program(draft / 'neighbors.onnx')
                    shares = compare(program.forward_features, expected, np.asarray(limits))
                    difference = difference._replace(
                        neighbors=shares.neighbors, single_neighbors=shares.single_neighbors
                    )
                    if neighbors:
                        os.replace(draft / 'neighbors.onnx', draft / name)
                del program
                if not difference.is_right and name in (FILES[0], FILES[3]):
                    raise ValueError(
                        f'{name} differs from PyTorch: its logits are {difference.double:.2g} from those in float64, '
                        f'those of PyTorch in float32 {difference.single:.2g}. Nothing was written.'
                    )
                size = (draft / name).stat().st_size
                files.append(ExportedFile(folder / name, seconds, size, _count_nodes(draft / name), difference))
            texts = sidecars(preprocessing, names, limits)
            texts['README.md'] = readme(config, preprocessing, describe(files))
            for name, text in texts.items():
                (draft / name).write_text(text, encoding='utf-8')
            (draft / 'neighbors.onnx').unlink(missing_ok=True)
            for name in FILES:  # those of an earlier export would not be of this model
                (folder / name).unlink(missing_ok=True)
            for path in sorted(draft.iterdir()):
                os.replace(path, folder / path.name)
    return files
