"""Read a file of weights without running code in it: what it holds, what is wrong with it, what it was trained with."""

import copy
import hashlib
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Type, Union

from huggingface_hub.errors import HfHubHTTPError

from ..class_names import check_names
from ..runtime import one_line
from .content import ContentError, Weights, read_content, read_weights

__all__ = ['HTTPError', 'LAYOUT', 'TrainedWith', 'find_problem', 'load_weights', 'read_training', 'sha256']

LAYOUT = 2  # of a run's files: since then names count epochs from 1, and the metric `loss` is that of training
MOST_DEPTH, MOST_VALUES = 8, 1_000_000  # of what a checkpoint was trained with
HTTPError: Type[Exception] = HfHubHTTPError.__bases__[0]  # of the HTTP client that the installed version uses

PROGRAMS = ('.onnx', '.pt2')  # exported models
OF_CONFIG = ('.safetensors', *PROGRAMS)  # files of weights whose classes are in the config.json beside them


def sha256(path: Union[str, Path]) -> str:
    """Return the hash of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def find_problem(path: Union[str, Path]) -> Optional[str]:
    """Say why a file cannot be used as weights, None if it can. No code in it is run."""
    if str(path).endswith(PROGRAMS):
        return 'an exported model, which predict and validate run, not weights'
    with open(path, 'rb') as file:
        head = file.read(1024).lstrip()
    if head.startswith(b'<'):
        return 'a web page in place of a checkpoint, as Google Drive sends one first: download with a browser'
    # the Hub names the files in its cache by the hash it has announced
    name = Path(path).resolve().name
    if re.fullmatch('[0-9a-f]{64}', name) and sha256(path) != name:
        return 'different from what the Hub announced, by its SHA-256'
    try:
        tensors = read_weights(path, use_ema=False).tensors
    except ContentError as error:
        return one_line(error).removeprefix(f'{str(path)!r} is ').removesuffix('.')
    except Exception as error:  # torch, pickle, zipfile and safetensors raise a dozen types on other files
        if code := re.search(r'GLOBAL ([\w.]+)', str(error)):
            return f'a pickle that asks for {code[1]}, which is code and was not run'
        return f'damaged or not a checkpoint ({type(error).__name__})'
    if not tensors:
        return 'without any tensor'
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.element_size() == 1:
            return f'of another kind: tensor {name!r} is of type {tensor.dtype}'
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return f'broken: tensor {name!r} has nan or infinite numbers'
    return None


def load_weights(path: Union[str, Path], use_ema: Optional[bool] = None) -> Weights:
    """Read the tensors of a file as `read_weights`, for those who have to give a reason if it cannot be read.

    Raises:
        ValueError: If it is not a file of weights.
    """
    try:
        return read_weights(path, use_ema)
    except ContentError:
        raise
    except Exception as error:
        raise ValueError(f'{str(path)!r} is {find_problem(path) or one_line(error)}.') from error


class TrainedWith(NamedTuple):
    """What a checkpoint of our training says about itself.

    Attributes:
        config: All fields of the training configuration, by flag name. `model` (str), `model_kwargs` (dict) and
            `img_size` (int or None) have been checked.
        class_names: In the order of the scores.
        has_ema: Whether it holds the average of the weights as well.
        best_weights: Which of both had the better metric in its epoch, 'raw' or 'average'; None if that is not known.
        held_out: Files of evaluation that the training chose from its split by `val_fraction`.
        is_training_split: Whether the training was evaluated on its own images.
        wandb_id: Its run at Weights & Biases.
        table: Record of how a table of labels was understood, not checked. None for other data sets.
    """

    config: Dict[str, Any]
    class_names: List[str]
    has_ema: bool
    best_weights: Optional[str] = None
    held_out: Optional[List[str]] = None
    is_training_split: bool = False
    wandb_id: Optional[str] = None
    table: Any = None

    def takes_average(self, use_ema: Optional[bool] = None) -> bool:
        """Whether to take the average of the weights: as is asked for, else if it had the better metric."""
        return self.best_weights == 'average' if use_ema is None else use_ema

    def describe_weights(self, use_ema: Optional[bool] = None) -> str:
        """Say in a line which weights are taken of a checkpoint with both."""
        average = self.takes_average(use_ema)
        reason = (
            'which had the better metric in training'
            if self.best_weights
            else 'as the file does not say which are better'
        )
        reason = 'as asked for' if use_ema is not None else reason
        other = '--no-use-ema takes the raw ones' if average else '--use-ema takes their average'
        return f'Weights: {"average" if average else "raw"}, {reason}; {other}.'


def _find_strange(values: Any) -> Optional[str]:
    """Describe what is neither a number, text nor None in nested lists and mappings of text, None if all is."""
    pending, seen = [(values, 0)], 0
    while pending:
        value, depth = pending.pop()
        seen += 1
        if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
            return 'a key that is no text'
        if isinstance(value, (dict, list, tuple)):
            if depth == MOST_DEPTH or seen + len(pending) + len(value) > MOST_VALUES:
                return 'values in too many levels, or too many of them'
            pending += [(item, depth + 1) for item in (value.values() if isinstance(value, dict) else value)]
        elif not (value is None or isinstance(value, (float, str)) or isinstance(value, int) and abs(value) < 2**63):
            return f'a value of type {type(value).__name__}' + (' beyond 64 bits' if isinstance(value, int) else '')
    return None


def read_training(path: Union[str, Path]) -> Optional[TrainedWith]:
    """Read what a checkpoint of train_multilabel.py was trained with, None for weights of other origin.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint, or a damaged one.
    """
    path = str(path)
    if not Path(path).is_file():
        last = Path(path, 'last.pth.tar')
        raise FileNotFoundError(
            f'Checkpoint {path!r} ' + (f'is a folder, give {last}.' if last.is_file() else 'does not exist.')
        )
    if path.endswith(OF_CONFIG):
        return None
    remedy = 'If it is of a training, take another one of its folder.'
    try:
        checkpoint = read_content(path)
    except Exception as error:  # whatever torch raises for a file of another kind
        problem = find_problem(path) or 'not a readable checkpoint'
        raise ValueError(f'{path!r} is {problem}. {remedy}') from error
    args = checkpoint.get('args') if isinstance(checkpoint, dict) else None
    if not isinstance(args, dict) or 'class_names' not in args:
        return None
    stored = dict(args, state_dict=checkpoint.get('state_dict'), state_dict_ema=checkpoint.get('state_dict_ema'))
    none = type(None)
    types = dict(class_names=list, model=str, model_kwargs=dict, img_size=(int, none))
    types.update(state_dict=dict, state_dict_ema=(dict, none))
    for name, kind in types.items():
        if name not in stored or not isinstance(stored[name], kind) or stored[name] is True:
            raise ValueError(f'{path!r} is damaged: its {name} is of type {type(stored.get(name)).__name__}. {remedy}')
    if problem := _find_strange(args):
        raise ValueError(f'{path!r} is damaged: what it was trained with has {problem}. {remedy}')
    if not all(isinstance(name, str) for name in args['class_names']):
        raise ValueError(f'{path!r} is damaged: one of its class_names is no text. {remedy}')
    config = copy.deepcopy(args)
    class_names, table = check_names(config.pop('class_names'), path), config.pop('table', None)
    has_ema = bool(stored['state_dict_ema'])
    saver = checkpoint.get('saver')
    if config.get('eval_metric') == 'loss' and not (isinstance(saver, dict) and saver.get('layout') == LAYOUT):
        config['eval_metric'] = 'bce'
    facts = dict(best_weights=None, held_out=None, is_training_split=False, wandb_id=None)
    facts = {name: copy.copy(checkpoint.get(name, default)) for name, default in facts.items()}
    held_out, wandb_id = facts['held_out'], facts['wandb_id']
    valid = dict(
        best_weights=facts['best_weights'] in (None, 'raw', 'average'),
        held_out=held_out is None or (isinstance(held_out, list) and all(isinstance(name, str) for name in held_out)),
        is_training_split=isinstance(facts['is_training_split'], bool),
        wandb_id=wandb_id is None or isinstance(wandb_id, str),
    )
    for name in facts:
        if not valid[name]:
            raise ValueError(f'{path!r} is damaged: its {name} is {str(facts[name])[:80]!r}. {remedy}')
    if not has_ema:
        facts['best_weights'] = None
    return TrainedWith(config, class_names, has_ema, table=table, **facts)
