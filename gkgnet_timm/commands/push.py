"""Upload a folder of weights to the Hugging Face Hub."""

from typing import List, Optional

from ..weights.publish import push
from .flags.push import create_parser


def main(argv: Optional[List[str]] = None) -> None:
    args = create_parser().parse_args(argv)
    done = push(**vars(args))
    if args.dry_run:
        print(f'Would upload to {"private " if args.private else ""}repository {args.repo_id}:')
        for name, size in done.sizes.items():
            print(f'{size:>13,} bytes  {name}')
        print(f'\n{done.card}', end='')
    else:
        print(done.url)
        if not done.is_exported:
            print(f"import timm, gkgnet_timm; model = timm.create_model('hf-hub:{args.repo_id}', pretrained=True)")
