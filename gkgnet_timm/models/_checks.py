"""Checks of the arguments of models, which configs from elsewhere may give."""

from typing import Sequence, Union

__all__ = ['check_channels', 'check_classifier', 'check_options', 'check_positive', 'check_size', 'check_stages']

NUM_STAGES = 4
MOST_BLOCKS, MOST_CHANNELS = 100, 8192  # of a stage
MOST_SQUARES = 1e8  # channels squared, over all blocks: about 1.3 billion parameters
POOL_TYPES = ('avg', 'max', 'avgmax', '')


def check_positive(**values: int) -> None:
    """Raise a ValueError that names the first value below 1, or far above that of any model."""
    for name, value in values.items():
        if type(value) is not int or value < 1:  # True is an int, too
            raise ValueError(f'{name} must be a positive integer, got {value!r:.80}.')
        most = MOST_BLOCKS if 'depth' in name else MOST_CHANNELS
        if value > most:
            raise ValueError(f'{name} must be at most {most}, got {value!r:.80}.')


def check_options(**values: Union[bool, float]) -> None:
    """Raise a ValueError that names the first rate outside 0 to 1, or switch that is not True or False."""
    for name, value in values.items():
        is_rate = name.endswith('_rate')
        if isinstance(value, bool) == is_rate or (is_rate and not (isinstance(value, (int, float)) and 0 <= value < 1)):
            expected = 'a number from 0 to below 1' if is_rate else 'True or False'
            raise ValueError(f'{name} must be {expected}, got {value!r:.80}.')


def check_stages(depths: Sequence[int], dims: Sequence[int]) -> None:
    """Raise a ValueError unless there is a positive integer for each of the four stages, none absurdly large."""
    for name, value in dict(depths=depths, dims=dims).items():
        if not isinstance(value, (list, tuple)) or len(value) != NUM_STAGES:
            raise ValueError(f'{name} must be {NUM_STAGES} positive integers, got {value!r:.80}.')
        check_positive(**{f'{name}[{i}]': item for i, item in enumerate(value)})
    check_size(depths, dims)


def check_size(depths: Sequence[int], dims: Sequence[int]) -> None:
    """Raise a ValueError if so many blocks of so many channels are more than any model has."""
    if sum(depth * dim**2 for depth, dim in zip(depths, dims)) > MOST_SQUARES:
        raise ValueError(f'depths {tuple(depths)} and dims {tuple(dims)} make a model of over a billion parameters.')


def check_channels(dims: Sequence[int], multiple: int, num_groups: int) -> None:
    """Raise a ValueError for channels that the layers cannot divide."""
    for dim in dims:
        if dim % multiple or dim % num_groups:
            rule = f'multiples of {multiple} and of num_groups={num_groups}'
            raise ValueError(f'Channels {tuple(dims)} have to be {rule}.')


def check_classifier(num_classes: int, global_pool: str) -> None:
    """Raise a ValueError unless the class count and the pooling make a head."""
    if type(num_classes) is not int or num_classes < 0:
        raise ValueError(f'num_classes must be 0 (no classifier) or a positive integer, got {num_classes!r}.')
    if global_pool not in POOL_TYPES:
        raise ValueError(f'global_pool must be one of {POOL_TYPES}, got {global_pool!r}.')
    if num_classes > 0 and not global_pool:
        raise ValueError("global_pool='' leaves no pooled features to classify, it needs num_classes=0.")
