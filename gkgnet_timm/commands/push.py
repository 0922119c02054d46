"""Upload a folder of weights to the Hugging Face Hub, and a Space that shows the model."""

from typing import List, Optional

from ..weights.publish import push
from .flags.push import create_parser


def main(argv: Optional[List[str]] = None) -> None:
    args = create_parser().parse_args(argv)
    if args.space is True:
        args.space = args.repo_id
    done = push(**vars(args))
    private = 'private ' if args.private else ''
    if args.dry_run:
        print(f'Would upload to {private}repository {args.repo_id}:')
        for name, size in done.sizes.items():
            print(f'{size:>13,} bytes  {name}')
        print(f'\n{done.card}', end='')
        if done.space:
            print(f'\nWould upload to {private}Space {args.space}:')
        for name, content in done.space.items():
            print(f'{len(content.encode()):>13,} bytes  {name}\n\n{content}')
    else:
        print(done.url)
        if not done.is_exported:
            print(f"import timm, gkgnet_timm; model = timm.create_model('hf-hub:{args.repo_id}', pretrained=True)")
    if done.space_url:
        print(done.space_url)
    if done.space:
        requirement = done.space['requirements.txt'].strip()
        print(f'The Space installs {requirement} from PyPI, where it has to be for the Space to start.')
