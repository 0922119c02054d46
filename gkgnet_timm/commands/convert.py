"""Convert weights of any origin to a folder that timm and the Hub take."""

from typing import List, Optional

from ..weights.convert import convert
from ..weights.file import read_training
from ..weights.folder import WEIGHTS
from .flags.convert import create_parser
from .selected import select_weights


def main(argv: Optional[List[str]] = None) -> None:
    args = create_parser().parse_args(argv)
    args.checkpoint = select_weights(args.checkpoint)
    done = convert(**vars(args))
    trained = read_training(args.checkpoint)
    if trained and trained.has_ema:
        print(trained.describe_weights(args.use_ema))
    size = (done.folder / WEIGHTS).stat().st_size / 1e6
    print(f'{", ".join(done.tensors)}; {done.architecture}, {done.num_classes} classes, {size:.1f} MB: {done.folder}')
    print('Loaded again, the outputs are the same bit for bit.')
    if done.installed:
        name = done.architecture
        print(f'Installed as {done.installed.resolve()}: create_model({name!r}, pretrained=True) loads it from now on.')
