"""Train a model: from flags to a configuration."""

from pathlib import Path
from typing import Dict, List, Optional, Tuple

from ..training.config import TrainConfig, check_types
from ..training.run import train
from ..weights.file import read_training
from ..weights.source import find_checkpoint
from .flags.config import read_config
from .flags.train import create_parser
from .selected import choose_dataset, move_paths

__all__ = ['main', 'parse_flags']


def parse_flags(argv: Optional[List[str]] = None) -> Tuple[TrainConfig, Optional[str]]:
    """Read flags from the command line, over those of a config, over those of the checkpoint to resume.

    Returns:
        The configuration, and the checkpoint to resume, if any.

    Raises:
        FileNotFoundError: If a config or checkpoint does not exist.
        ValueError: If a config is malformed or flags contradict each other.
    """
    parser = create_parser()
    given = parser.parse_args(argv)
    resume = given.resume
    flags_of_config = read_config(given.config, parser) if given.config else {}
    if resume in (None, 'auto') and not flags_of_config.get('dataset'):
        splits = (getattr(given, name) or flags_of_config.get(name) for name in ('train_split', 'val_split'))
        given.dataset = choose_dataset(given.dataset, given.data_dir, splits)
        parser.set_defaults(dataset=given.dataset)
        if not given.config and given.dataset in (None, 'demo'):
            flags_of_config = read_config('demo', parser)
    if given.no_val or given.val_fraction:
        flags_of_config.update(dict.fromkeys(('val_split', 'val_images', 'val_num_samples')))
    parser.set_defaults(**flags_of_config)
    if resume == 'auto':
        given = parser.parse_args(argv)
        if not given.experiment:
            raise ValueError('--resume auto needs --experiment, whose last checkpoint it continues from.')
        last = Path(given.output, given.experiment, 'last.pth.tar')
        resume = str(last) if last.is_file() else None
    if resume:
        resume = find_checkpoint(resume)
        trained = read_training(resume)
        if not trained:
            raise ValueError(
                f'{resume!r} is not a checkpoint of train_multilabel.py. To start from its weights give '
                '--pretrained-path.'
            )
        try:
            check_types(trained.config)
        except ValueError as error:
            raise ValueError(f'{resume!r} is damaged: {error}') from error
        trained = move_paths(trained, given.data_dir)
        known = vars(given).keys() - {'device'}
        parser.set_defaults(**{flag: value for flag, value in trained.config.items() if flag in known})
        if given.config:
            parser.set_defaults(**flags_of_config)
        if given.dataset not in (None, trained.config.get('dataset')):
            parser.set_defaults(**dict.fromkeys(('train_split', 'train_images', 'val_split', 'val_images')))
        folder = Path(resume).parent
        parser.set_defaults(output=str(folder.parent), experiment=folder.name)
    flags = vars(parser.parse_args(argv))
    if resume and Path(flags['output'], flags['experiment']) != folder:
        raise ValueError(
            f'--resume continues in the folder of its checkpoint {resume!r}: leave out --output, --experiment.'
        )
    if flags['dataset'] is None:
        raise ValueError(f'Neither --dataset nor config {given.config!r} says which data set to train on.')
    del flags['config'], flags['resume']
    return TrainConfig(**{flag: value for flag, value in flags.items() if value is not None}), resume


def main(argv: Optional[List[str]] = None) -> Dict[str, float]:
    """Train as the flags say; returns the metrics of the last epoch."""
    return train(*parse_flags(argv))
