"""Convert weights of any origin to a folder that timm and the Hub take: config.json, model.safetensors, README.md."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from safetensors import SafetensorError

import timm
from timm.data import resolve_input_data_config
from timm.models import PretrainedCfg, get_pretrained_cfg, save_for_hf

from ..class_names import UNVERIFIED, VERIFIED, read_class_map, with_note
from ..data.progress_bar import say
from ..label_rows import init_labels_by_name
from ..runtime import clear_drafts, locked, one_line
from .content import Weights, check_raw
from .file import load_weights, read_training, sha256
from .folder import CONFIG, WEIGHTS
from .load import create_model, load_model
from .model_card import model_card, public
from .source import GKGNET_FILE, MODULES, VIG_FILES, find_weights, installed_file
from .thresholds import load_threshold

__all__ = ['Converted', 'convert']

RECIPE = ('dataset', 'train_split', 'epochs', 'batch_size', 'opt', 'lr', 'weight_decay', 'sched', 'loss', 'img_size')
RECIPE += ('drop_path', 'cropmix', 'reprob', 'aa', 'color_jitter', 'mixup', 'cutmix', 'amp', 'model_ema', 'seed')


class Converted(NamedTuple):
    """What `convert` wrote."""

    folder: Path
    architecture: str
    num_classes: int
    tensors: List[str]  # what became of those of the file
    installed: Optional[Path]  # where `create_model(architecture, pretrained=True)` finds the weights from now on


def _load_published(
    checkpoint: str, weights: Weights, name: str, model_kwargs: Dict[str, Any]
) -> Tuple[nn.Module, List[str]]:
    """Load a file of other origin with all of its classes, and say what became of its tensors."""
    shapes = {key: tuple(value.shape) for key, value in weights.tensors.items()}
    model_kwargs = dict(model_kwargs, use_ema=weights.is_average)
    del weights  # the model reads the file itself
    model = create_model(name, pretrained_path=checkpoint, **model_kwargs)
    num_classes = model.pretrained_cfg['num_classes']  # those of the file
    if not num_classes:
        raise ValueError(
            f'{checkpoint!r} has no classifier of {name}. Convert a trunk as what it is, with --model pvig_*_224: '
            'gkgnet_*.in1k take theirs from there.'
        )
    if num_classes != model.num_classes:
        model = create_model(name, pretrained_path=checkpoint, **dict(model_kwargs, num_classes=num_classes))
    dropped = [key for key in shapes if key.endswith('.relative_pos')]
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    size = own['stem.pos_embed']
    embed = next((shape for key, shape in shapes.items() if key.endswith('pos_embed')), size)
    return model, [
        f'{len(own)} of {len(shapes)} tensors taken',
        f'{len(dropped)} dropped' + (' (relative_pos, which the model computes)' if dropped else ''),
        f'1 resampled (stem.pos_embed {embed} to {size})' if embed != size else '0 resampled',
    ]


def _name_labels(model: nn.Module, cfg: PretrainedCfg, order: Union[str, Path, None]) -> Sequence[str]:
    """Return the class names of a file without any: those of the tag, or of a class-map file.

    If the file has the names of the tag in another order, the rows of the model are brought to that of the tag.
    """
    names = read_class_map(order) if order else cfg.label_names or ()
    if order and len(names) != model.num_classes:
        raise ValueError(
            f'--class-order {str(order)!r} has {len(names)} names, the checkpoint {model.num_classes} classes.'
        )
    if order and sorted(names) == sorted(cfg.label_names or ()):
        init_labels_by_name(model, cfg.label_names, names)
        names = cfg.label_names
    return names if len(names) == model.num_classes else ()


def _write(folder: Path, model: nn.Module, config: Dict[str, Any]) -> None:
    """Write the three files if the model they make gives the same outputs."""
    data_config = resolve_input_data_config(model)
    clear_drafts(folder, '.convert-', age=0)  # of a run that was killed, as no other is at work
    with tempfile.TemporaryDirectory(prefix='.convert-', dir=folder) as draft:
        save_for_hf(model, draft, config, safe_serialization=True, data_config=data_config)
        written = json.loads(Path(draft, CONFIG).read_text(encoding='utf-8'))
        written['converted_from']['written'] = sha256(Path(draft, WEIGHTS))
        written['model_args'].pop('num_classes')  # it stands at the root, and transformers refuses it twice
        Path(draft, CONFIG).write_text(json.dumps(written, indent=2), encoding='utf-8')
        card = model_card(written)
        Path(draft, 'README.md').write_text(card, encoding='utf-8')
        shutil.copymode(Path(draft, CONFIG), Path(draft, WEIGHTS))  # safetensors makes it private
        image = torch.randn(1, *data_config['input_size'], generator=torch.Generator().manual_seed(0))
        loaded = timm.create_model(f'local-dir:{draft}', pretrained=True)
        if not torch.equal(loaded.eval()(image), model.eval()(image)):
            raise ValueError(
                f'{folder}: the model that was written gives different outputs from the one that was read.'
            )
        (folder / WEIGHTS).unlink(missing_ok=True)  # if killed from here on, no weights stay beside another config
        for name in (CONFIG, 'README.md', WEIGHTS):
            os.replace(Path(draft, name), folder / name)


def _install(folder: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_drafts(target.parent, '.install-')
        with tempfile.TemporaryDirectory(prefix='.install-', dir=target.parent) as draft:  # of this process alone
            for name in (CONFIG, WEIGHTS):
                shutil.copy(folder / name, draft)
            os.replace(Path(draft, CONFIG), target.with_name(CONFIG))
            os.replace(Path(draft, WEIGHTS), target)
    except OSError as error:
        raise OSError(
            f'--install: cannot write {str(target)!r} ({error.strerror}). GKGNET_TIMM_CACHE sets its place.'
        ) from error


@torch.inference_mode()
def convert(
    checkpoint: Union[str, Path],
    output: Union[str, Path],
    *,
    model: Optional[str] = None,
    model_kwargs: Optional[Dict[str, Any]] = None,
    use_ema: Optional[bool] = None,
    class_order: Union[str, Path, None] = None,
    thresholds: Union[str, Path, None] = None,
    install: bool = False,
) -> Converted:
    """Write weights as a folder for `create_model('local-dir:FOLDER', pretrained=True)` and for the Hub.

    Args:
        checkpoint: A published GKGNet, Pyramid ViG or ViG file, or a checkpoint of train_multilabel.py.
        output: Folder for the three files.
        model: Name of the model; a checkpoint of train_multilabel.py has its own.
        model_kwargs: More arguments of the model.
        use_ema: Take the average of the weights in the checkpoint, or the weights themselves, see `read_weights`.
        class_order: File of class names in the order of the checkpoint, one per line.
        thresholds: File of `validate.py --calibrate`: the thresholds go with the weights, for `predict`.
        install: Let `create_model(model, pretrained=True)` load these weights from now on, offline.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the files cannot be written.
        ValueError: If the file is not weights of the model, or the folder would load as a different model.
    """
    path, output = find_weights(checkpoint), Path(output)
    trained = read_training(path)
    if trained and (model or model_kwargs):
        raise ValueError(f'{path!r} says itself that it is of {trained.config["model"]!r}: leave out --model.')
    if trained and class_order:
        raise ValueError(f'--class-order: {path!r} has the names of its classes in the order of its outputs.')
    beside = Path(path).parent
    if path.endswith('.safetensors') and (beside / CONFIG).is_file():
        raise ValueError(f'{path!r} is in a folder that timm loads as it is, by the name local-dir:{beside}.')
    if not trained and not model:
        raise ValueError(f'{path!r} does not say which model it is of, give --model NAME.')
    ours = timm.list_models(module=MODULES)
    if not trained and model not in (*ours, *timm.list_models(pretrained=True, module=MODULES)):
        raise ValueError(f'--model {model!r} is not one that weights can be converted to: {", ".join(ours)}.')
    if output.exists() and not output.is_dir():
        raise ValueError(f'--output {str(output)!r} is a file, give a folder.')

    if use_ema is False and not trained:
        check_raw(path)
    say('Reading the weights.')
    weights = load_weights(path, trained.takes_average(use_ema) if trained else use_ema)
    origin = dict(file=Path(path).name, sha256=sha256(path), ema=weights.is_average)
    config: Dict[str, Any] = dict(converted_from=origin)
    target, known = None, {}
    say('Building the model.')
    if trained:
        net, names = load_model(path, use_ema=weights.is_average), trained.class_names
        tensors = [f'{len(net.state_dict())} tensors taken']
        stored = trained.config
        config['training'] = public({key: stored[key] for key in RECIPE if stored.get(key) not in (None, False, 0)})
        started = stored.get('pretrained') or stored['model_kwargs'].get('pretrained_backbone')
        if started and not (stored.get('pretrained_path') or stored.get('initial_checkpoint')):
            known = dict(license=net.pretrained_cfg.get('license'))  # of the weights that the training started from
    else:
        cfg = get_pretrained_cfg(model)
        net, tensors = _load_published(path, weights, model, model_kwargs or {})
        names = _name_labels(net, cfg, class_order)
        # the tag in1k is of a trunk: a whole GKGNet does not have its licence and origin
        if net.num_classes == cfg.num_classes and list(names) == list(cfg.label_names or names):
            if cfg.url in (GKGNET_FILE, VIG_FILES.get(cfg.architecture)):
                known = dict(tag=cfg.tag, license=cfg.license, origin_url=cfg.origin_url)
                target = None if model_kwargs else installed_file(cfg)
    if install and not target:
        raise ValueError(
            f'--install is for the published weights of a model of this name, {path!r} has others: load them by '
            f"create_model('local-dir:{output}', pretrained=True)."
        )
    for key, tensor in net.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f'{path!r}: tensor {key!r} has nan or infinite numbers.')
    if names:
        config['label_names'] = list(names)
    if trained or hasattr(net, 'forward_graph'):
        config['problem_type'] = 'multi_label_classification'  # the name of transformers, which then takes sigmoids
    if thresholds:
        if not names or not Path(thresholds).is_file():
            raise ValueError(f'--thresholds {str(thresholds)!r}: give a file of thresholds by class, and class names.')
        values = load_threshold(thresholds, list(names))
        config['thresholds'] = dict(zip(names, values.tolist()))
    order = None if trained or not names else VERIFIED if class_order else UNVERIFIED
    # what a tag says of its own weights is not known of others
    said = dict.fromkeys(('description', 'label_names', 'tag', 'license', 'origin_url')) | known
    said['notes'] = with_note(net.pretrained_cfg.get('notes'), order)
    cfg_of_weights = {**net.pretrained_cfg, **said}
    net.pretrained_cfg = {key: value for key, value in cfg_of_weights.items() if value is not None or key not in said}
    try:
        with locked(output, 'convert'):
            say('Writing the folder, and loading it again to compare.')
            _write(output, net, config)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, 'strerror', None) or one_line(error)
        raise OSError(f'Cannot write to {str(output)!r}, what was there stays: {reason}.') from error
    if install:
        _install(output, target)
    return Converted(output, net.pretrained_cfg['architecture'], net.num_classes, tensors, target if install else None)
