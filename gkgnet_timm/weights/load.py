"""Create models by timm's registry and load weights into them."""

import difflib
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
import torch.nn as nn
from huggingface_hub import hf_hub_download

import timm
from timm.data import resolve_input_data_config
from timm.models import is_model_in_modules, parse_model_name, set_pretrained_download_progress

from ..class_names import check_names, with_note
from ..data.decode import reading_notes
from ..label_rows import init_labels_by_name
from ..runtime import UserError, one_line, read_json
from .content import check_raw, reading_once
from .file import OF_CONFIG, PROGRAMS, TrainedWith, find_problem, load_weights, read_training
from .folder import CONFIG, WEIGHTS, read_model_config
from .source import BACKBONE_MODULE, MODULES, find_weights
from .thresholds import check_thresholds

__all__ = [
    'architecture_of',
    'check_arguments',
    'check_forward',
    'create_model',
    'create_model_by_labels',
    'load_model',
    'stored_names',
]

_NOT_OF_A_MODEL = {
    'name': 'give --model',
    'num_classes': 'the data set or the weights say it',
    'pretrained': 'give --pretrained',
    'pretrained_path': 'give --pretrained-path',
    'checkpoint': 'give --checkpoint',
    'checkpoint_path': 'timm takes it its own way; give --pretrained-path, or --checkpoint',
    'use_ema': 'give --use-ema',
    'features_only': 'it gives feature maps, not scores',
    'out_indices': 'it gives feature maps, not scores',
    'device': 'give --device',
    'scriptable': 'use torch.jit.script on the model',
    'exportable': 'use torch.export on the model',
}


def _stored_names(path: str) -> List[str]:
    """Return the class names that come with weights, empty if there are none.

    They are in our checkpoints, and in the config.json beside a safetensors file of timm or an exported model.
    """
    if not path.endswith(OF_CONFIG):
        trained = read_training(path)
        return trained.class_names if trained else []
    config = Path(path).with_name('config.json')
    if not config.is_file():
        return []
    try:
        content = read_json(config)
        names = content.get('label_names') or content.get('pretrained_cfg', {}).get('label_names')
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f'{str(config)!r} beside the weights is not the config of a timm model ({error}).') from error
    # timm also has mappings that name some of the classes
    return check_names(names, config) if isinstance(names, list) and names else []


def _config_path(source: str, place: str) -> Path:
    """Return where the config of a model is that is in a folder or on the Hub."""
    if source == 'local-dir':
        return Path(place, CONFIG)
    repo, _, revision = place.partition('@')
    return Path(hf_hub_download(repo, CONFIG, revision=revision or None))


def architecture_of(name: str) -> str:
    """Return the name that timm has registered for a model that may also be on the Hub or in a folder.

    Raises:
        ValueError: If there is no such model. Names similar ones.
    """
    source, place = parse_model_name(name)
    if source:
        architecture = read_model_config(_config_path(source, place))['architecture']
    else:
        architecture = name.partition('.')[0]
    if not timm.is_model(architecture):
        similar = ', '.join(difflib.get_close_matches(architecture, timm.list_models()))
        raise ValueError(f'Unknown model {architecture!r}, similar: {similar or "none, see timm.list_models()"}.')
    return architecture


def _is_on_backbone(architecture: str) -> bool:
    return is_model_in_modules(architecture, [BACKBONE_MODULE])


def check_arguments(name: Optional[str], model_kwargs: Dict[str, Any]) -> None:
    """Raise a ValueError that names the first argument that is none of this model, but decided elsewhere.

    Without a name, that of a checkpoint, some are left to `create_model`.
    """
    for key in model_kwargs:
        is_of_backbone = key == 'out_indices' and (not name or _is_on_backbone(architecture_of(name)))
        if key in _NOT_OF_A_MODEL and not is_of_backbone:
            raise ValueError(f'Argument {key!r} of a model (--model-kwargs): {_NOT_OF_A_MODEL[key]}.')


def check_forward(model: nn.Module, img_size: Union[int, Tuple[int, int], None] = None) -> None:
    """Raise a ValueError if a model does not give a score for each of its classes: arguments of it are wrong.

    Args:
        model: Any model.
        img_size: Side or (height, width) that it was set to, if that is what may be wrong.
    """
    what = f'Image size {img_size} (--img-size)' if img_size else 'Arguments of the model (--model-kwargs)'
    size = resolve_input_data_config(model, args=dict(img_size=img_size))['input_size']
    was_training = model.training
    try:
        with torch.inference_mode():
            scores = model.eval()(next(model.parameters()).new_zeros(1, *size))
    except Exception as error:  # whatever operations raise for shapes that do not fit
        raise ValueError(f'{what}: the model fails: {one_line(error)}') from error
    finally:
        model.train(was_training)
    if not isinstance(scores, torch.Tensor) or scores.shape != (1, model.num_classes):
        raise ValueError(f'{what}: the model does not give a score for each class.')


def _set_size(model: nn.Module, img_size: Union[int, Tuple[int, int]]) -> None:
    """Set the image size of a model that is made for one, and see that it runs."""
    if not hasattr(model, 'set_input_size'):
        return
    try:
        model.set_input_size(img_size)
    except UserError:
        raise
    except Exception as error:  # whatever models raise for sizes that they cannot have
        raise ValueError(f'Image size {img_size} (--img-size): {one_line(error)}') from error
    check_forward(model, img_size)


@reading_once()
def create_model(
    name: str,
    *,
    pretrained: bool = False,
    pretrained_path: Union[str, Path, None] = None,
    use_ema: Optional[bool] = None,
    num_classes: Optional[int] = None,
    img_size: Union[int, Tuple[int, int], None] = None,
    pos_embed_init: str = 'resample',
    drop_rate: Optional[float] = None,
    drop_path_rate: Optional[float] = None,
    **model_kwargs: Any,
) -> nn.Module:
    """Create a model of any name that timm takes, at an image size.

    Args:
        name: Name in timm's registry, 'hf-hub:ORG/NAME' or 'local-dir:FOLDER'.
        pretrained: Load the weights of this name.
        pretrained_path: Load these weights instead, see `find_weights`; classes of another number start fresh.
        use_ema: Take the average of the weights in this file, or the weights themselves, see `read_weights`.
        num_classes: None for those of the weights.
        img_size: Side or (height, width) in pixels, None for that of the model.
        pos_embed_init: For weights of another size, 'resample' their position embedding or start from 'zero'; our
            models only.
        drop_rate: Dropout before the classifier, None for that of the model.
        drop_path_rate: Stochastic depth, None for that of the model.
        model_kwargs: More arguments of the model.

    Raises:
        FileNotFoundError: If `pretrained_path` does not exist.
        ValueError: If timm has no such model, or the weights do not exist or do not fit.
    """
    check_arguments(name, model_kwargs)
    architecture = architecture_of(name)
    ours = is_model_in_modules(architecture, MODULES)
    if sys.stderr is not None and sys.stderr.isatty():
        set_pretrained_download_progress()  # without a terminal it would print, too
    kwargs = dict(model_kwargs, num_classes=num_classes, drop_rate=drop_rate, drop_path_rate=drop_path_rate)
    decides_size = ours or _is_on_backbone(architecture)  # when it is made
    if ours:
        kwargs['pos_embed_init'] = pos_embed_init
    if decides_size:
        kwargs['img_size'] = img_size
    source = ''
    if pretrained_path is not None:
        path = find_weights(pretrained_path)
        overlay = dict(model_kwargs.get('pretrained_cfg_overlay') or {}, source='')
        overlay['state_dict'] = load_weights(path, use_ema).tensors
        if num_classes is None and (names := _stored_names(path)):
            overlay.update(num_classes=len(names), label_names=names)
        kwargs['pretrained_cfg_overlay'], source = overlay, f' from {path!r}'
    try:
        model = timm.create_model(name, pretrained=pretrained or bool(source), **kwargs)
    except (OSError, UserError):
        raise
    # weights without a source, tensors that do not fit, unknown arguments, and whatever arguments of models can raise
    except Exception as error:
        raise ValueError(f'Model {name!r}{source}: {one_line(error)}') from error
    for cfg in (model.pretrained_cfg, model.default_cfg):
        cfg.pop('state_dict', None)
    if img_size and not decides_size:
        _set_size(model, img_size)
    return model


def _check_classifier(model: nn.Module, source: str, remedy: str) -> None:
    """Raise a ValueError if timm has left the classifier as it starts: its scores would be noise."""
    known = model.pretrained_cfg['num_classes']
    if known != model.num_classes:
        found = f'have {known} classes, not {model.num_classes}' if known else 'are of a trunk, without a classifier'
        raise ValueError(f'Weights {source!r} {found}: {remedy}.')


def _set_cfg(
    model: nn.Module, img_size: Any = None, class_names: Optional[List[str]] = None, **preprocessing: Any
) -> None:
    """Give a model a `pretrained_cfg` of its own, with its classes and the preprocessing for the size it runs at."""
    cfg = dict(model.pretrained_cfg)
    config = resolve_input_data_config(model, args=dict(preprocessing, img_size=img_size))
    if tuple(config['input_size'][1:]) != tuple(cfg['input_size'][1:]):
        cfg['pool_size'] = None
    cfg.update(config, num_classes=model.num_classes)
    if class_names:
        cfg['label_names'] = class_names
    elif len(cfg.get('label_names') or ()) != model.num_classes:
        cfg.pop('label_names', None)
    if class_names or 'label_names' not in cfg:
        cfg['notes'] = with_note(cfg.get('notes'), None)
    model.pretrained_cfg = model.default_cfg = cfg


def _load_trained(
    path: str,
    trained: TrainedWith,
    name: Optional[str],
    img_size: Union[int, Tuple[int, int], None],
    use_ema: Optional[bool],
    model_kwargs: Dict[str, Any],
) -> nn.Module:
    """Load a checkpoint of our training into a model of its image size, then change the size."""
    config = trained.config
    name = name or config['model']
    if name.partition('.')[0] != config['model'].partition('.')[0]:
        raise ValueError(f'Checkpoint {path!r} is of model {config["model"]!r}, not {name!r}.')
    kwargs = {**config['model_kwargs'], **model_kwargs, 'num_classes': len(trained.class_names)}
    kwargs.pop('pretrained_backbone', None)  # the weights of the checkpoint follow
    for argument in ('img_size', 'in_chans'):
        if config.get(argument):
            kwargs[argument] = config[argument]
    try:
        model = create_model(name, **kwargs)
    except ValueError as error:
        raise ValueError(f'Checkpoint {path!r}: {error}') from error
    try:
        model.load_state_dict(load_weights(path, use_ema).tensors)
    except RuntimeError as error:
        raise ValueError(f'Checkpoint {path!r} does not fit {name!r}: {one_line(error, 200)}') from error
    if model_kwargs:
        check_forward(model)
    if img_size and img_size != config['img_size']:
        _set_size(model, img_size)
    preprocessing = {name: config.get(name) for name in ('mean', 'std', 'crop_pct')}
    _set_cfg(model, img_size or kwargs.get('img_size'), trained.class_names, **preprocessing)
    if 'bit_depth' in config:  # older checkpoints do not say how images were read
        model.pretrained_cfg['notes'] = reading_notes(config['bit_depth'], config.get('background'))
    return model


def _name_of_folder(path: str, name: Optional[str]) -> str:
    """Return the name by which timm loads a folder of weights with a config that says what they are of."""
    folder = Path(path).parent
    architecture = read_model_config(folder / CONFIG)['architecture']
    if Path(path).name != WEIGHTS:
        raise ValueError(f'Weights {path!r} are beside a {CONFIG} of {WEIGHTS}: name the file so, or move it.')
    if name and architecture_of(name) != architecture:
        raise ValueError(f'Weights {path!r} are of {architecture}, not of {name!r}: leave out --model.')
    return f'local-dir:{folder}'


def stored_names(checkpoint: Optional[str], name: Optional[str]) -> List[str]:
    """Return the class names that come with a file of weights or with the pretrained ones of a model, if any do."""
    if checkpoint:
        return _stored_names(checkpoint)
    source, place = parse_model_name(name)
    if source:
        config = read_model_config(_config_path(source, place))
        names = config.get('label_names') or config['pretrained_cfg'].get('label_names')
    else:
        cfg = timm.models.get_pretrained_cfg(name)
        names = cfg and cfg.label_names
    return list(names) if isinstance(names, (list, tuple)) else []


def _stored_thresholds(name: str) -> Optional[List[float]]:
    path = _config_path(*parse_model_name(name))
    config = read_model_config(path)
    if 'thresholds' not in config:
        return None
    names = config.get('label_names') or config['pretrained_cfg'].get('label_names') or ()
    return check_thresholds(config['thresholds'], names, repr(str(path)))


@reading_once()
def load_model(
    checkpoint: Union[str, Path, None] = None,
    *,
    name: Optional[str] = None,
    pretrained: bool = False,
    num_classes: Optional[int] = None,
    img_size: Union[int, Tuple[int, int], None] = None,
    use_ema: Optional[bool] = None,
    **model_kwargs: Any,
) -> nn.Module:
    """Load a model with weights, ready for inference: `load_model('last.pth.tar')`.

    Options you omit are read from a checkpoint of train_multilabel.py. Weights of other origin need `name`.
    `timm.data.resolve_model_data_config(model)` is the preprocessing, at the size the model runs at,
    `model.pretrained_cfg['label_names']` its class names, if the weights name them, and `model.thresholds` the lowest
    score of each label, of a folder or repository that `convert --thresholds` wrote.

    Args:
        checkpoint: Weights, as `find_weights` takes them. None for the pretrained ones of `name`.
        name: Name in timm's registry, 'hf-hub:ORG/NAME' or 'local-dir:FOLDER'.
        pretrained: Load the weights of `name`.
        num_classes: None for those of the weights.
        img_size: Side or (height, width) in pixels, None for that of the weights.
        use_ema: Load the average of the weights in the checkpoint, or the weights themselves (default: those with the
            better metric in training, see `read_weights`).
        model_kwargs: More arguments of the model; they replace those of the checkpoint.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        OSError: If weights cannot be downloaded.
        ValueError: If the weights do not fit the model, or have no classifier of `num_classes` classes.
    """
    if checkpoint is None and not (name and pretrained):
        raise ValueError(
            'No weights: give --checkpoint FILE, or --model NAME --pretrained (in Python: checkpoint, or name and '
            'pretrained=True).'
        )
    path = None if checkpoint is None else find_weights(checkpoint)
    trained = read_training(path) if path else None
    if path and path.endswith('.safetensors') and Path(path).with_name(CONFIG).is_file():
        name, path, pretrained = _name_of_folder(path, name), None, True
    if path and path.endswith(PROGRAMS):
        raise ValueError(f'{path!r} is {find_problem(path)}.')
    if not trained and not name:
        raise ValueError(f'Checkpoint {path!r} does not say which model it is of, give --model NAME (in Python: name).')
    if use_ema and (not path or trained and not trained.has_ema):
        raise ValueError(
            f'--use-ema: {path or name!r} holds no average of the weights, as a training with --model-ema leaves one.'
        )
    if path and use_ema is False and not trained:
        check_raw(path)
    if trained:
        if num_classes not in (None, len(trained.class_names)):
            raise ValueError(f'Checkpoint {path!r} has {len(trained.class_names)} classes, not {num_classes}.')
        return _load_trained(path, trained, name, img_size, trained.takes_average(use_ema), model_kwargs).eval()
    kwargs = dict(model_kwargs, pretrained=pretrained, pretrained_path=path, use_ema=use_ema, num_classes=num_classes)
    if path and num_classes and not is_model_in_modules(architecture_of(name), [*MODULES, BACKBONE_MODULE]):
        # what timm registered for its own weights does not hold for a file; our models look at the file
        kwargs['pretrained_cfg_overlay'] = dict(num_classes=num_classes)
    model = create_model(name, img_size=img_size, **kwargs)
    if model_kwargs:
        check_forward(model)
    _check_classifier(model, path or name, 'give weights of these classes, or name theirs with --class-map FILE')
    _set_cfg(model, img_size)
    if parse_model_name(name)[0]:
        model.thresholds = _stored_thresholds(name)
    return model.eval()


def create_model_by_labels(name: str, class_names: List[str], **kwargs: Any) -> Tuple[nn.Module, List[str]]:
    """Create a pretrained model for other classes, and return those of them that its weights know by name.

    Args:
        name: Name of the model, as `create_model` takes it.
        class_names: Classes of the model.
        kwargs: More arguments of `create_model`, with `pretrained` or `pretrained_path`.

    Raises:
        FileNotFoundError: If `pretrained_path` does not exist.
        ValueError: If there are no such weights, they do not name their classes, or share none with `class_names`.
    """
    flag, source = '--init-labels-by-name', str(kwargs.get('pretrained_path') or name)
    model = create_model(name, **kwargs)
    names = model.pretrained_cfg.get('label_names')
    if not names:
        raise ValueError(
            f'{flag}: weights {source!r} do not name their classes. Give --pretrained-path with a checkpoint of '
            "train_multilabel.py, or a safetensors file with 'label_names' in config.json beside it; with the "
            'published GKGNet file give --model gkgnet_576, at any --img-size.'
        )
    _check_classifier(model, source, f'leave out {flag}')
    known = init_labels_by_name(model, class_names)
    if not known:
        raise ValueError(
            f'{flag}: none of the {len(class_names)} classes ({", ".join(class_names[:3])}, ...) is one of the '
            f'{len(names)} of the pretrained weights ({", ".join(names[:3])}, ...): leave it out.'
        )
    return model, known
