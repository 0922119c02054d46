"""Give a model other classes and keep what it knows about those it already has."""

import re
from typing import Dict, Iterable, List, Optional, Sequence

import torch
import torch.nn as nn

from .class_names import check_names

__all__ = ['init_labels_by_name']


def _plain(name: str) -> str:
    return re.sub(r'[\s_-]', '', name.casefold())


def _positions(names: Sequence[str], among: Iterable[int]) -> Dict[str, List[int]]:
    positions: Dict[str, List[int]] = {}
    for i in among:
        positions.setdefault(names[i], []).append(i)
    return positions


def _match_names(class_names: Sequence[str], source_names: Sequence[str]) -> Dict[int, int]:
    """Return the index in the source of each class that the source has."""
    rows: Dict[int, int] = {}
    for key in (str, _plain):  # exact names first
        mine, theirs = ([key(name) for name in names] for names in (class_names, source_names))
        left = [i for i in range(len(mine)) if i not in rows]
        taken = set(rows.values())
        free = _positions(theirs, (j for j in range(len(theirs)) if j not in taken))
        wanted = _positions(mine, left)
        for i in left:
            found, rivals = free.get(mine[i], []), wanted[mine[i]]
            if found and len(found) + len(rivals) > 2:
                names, others = ', '.join(repr(class_names[k]) for k in rivals), [source_names[j] for j in found]
                raise ValueError(
                    f'Class {names} could be any of {others} of the pretrained weights: expected one name on each '
                    'side, so rename the others.'
                )
            if found:
                rows[i] = found[0]
    return rows


def init_labels_by_name(
    model: nn.Module, class_names: Sequence[str], source_names: Optional[Sequence[str]] = None
) -> List[str]:
    """Give a model other classes; those it knows by name keep their weights.

    Weights and biases of the modules in `pretrained_cfg['classifier']` (in GKGNet the label embedding and both score
    layers) are carried row by row, so the same classes in another order permute the logits. Rows of new classes start
    as `model.reset_classifier` leaves them. An exactly equal name goes first; otherwise case, spaces, '_' and '-' do
    not count. A head that the reset drops, such as that of distillation in RepViT, is not restored.

    Args:
        model: timm model with weights, changed in place. `num_classes` and `label_names` of its `pretrained_cfg`, which
            becomes a copy, change too.
        class_names: New classes.
        source_names: Classes of the model now, by default `label_names` of its `pretrained_cfg`.

    Returns:
        The new classes whose weights were carried.

    Raises:
        ValueError: If the model's classes have no names, a name could mean several, or there is no classifier.
    """
    class_names = check_names(class_names, 'class_names')
    cfg = getattr(model, 'pretrained_cfg', None) or {}
    names = source_names if source_names is not None else cfg.get('label_names')
    names = [str(name) for name in (names.values() if isinstance(names, dict) else names or ())]
    if not names:
        raise ValueError("The classes of the model have no names, in 'label_names' of its cfg: give source_names.")
    count = getattr(model, 'num_classes', 0)
    if len(names) != count:
        raise ValueError(f'The model has {count} classes, but {len(names)} names are given: give one for each.')
    heads = cfg.get('classifier') or ()
    heads = (heads,) if isinstance(heads, str) else heads
    before = model.state_dict(keep_vars=True)
    keys = [f'{head}.{leaf}' for head in heads for leaf in ('weight', 'bias') if f'{head}.{leaf}' in before]
    if not keys or any(len(before[key]) != count for key in keys):
        raise ValueError(f"'classifier' of the model's cfg is {heads!r}: expected modules with a row for each class.")
    rows = _match_names(class_names, names)

    stored = {key: before[key].detach().clone() for key in keys}
    training = {name: module.training for name, module in model.named_modules()}
    model.reset_classifier(len(class_names))
    new_rows, old_rows = (torch.tensor(list(indices), dtype=torch.long) for indices in (rows.keys(), rows.values()))
    for key, value in model.state_dict(keep_vars=True).items():
        old = before.get(key)
        if old is None or (value is old and key not in stored):
            continue
        value.requires_grad_(old.requires_grad)
        value.data = value.data.to(old.device, old.dtype)  # some timm models build the new head on the CPU
        if key in stored:
            value.data[new_rows] = stored[key][old_rows]
        elif value.shape == old.shape:  # the rest of the head, such as the norm before it
            value.data.copy_(old)
    for name, module in model.named_modules():
        module.training = training.get(name, module.training)
    model.pretrained_cfg = model.default_cfg = dict(cfg, num_classes=len(class_names), label_names=class_names)
    return [class_names[i] for i in sorted(rows)]
