"""Upload of a folder of weights to the Hugging Face Hub, with a model card of its facts."""

import argparse
import json
import re
from pathlib import Path
from typing import Any, Dict, List, Optional

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import validate_repo_id

from ..weights.file import HTTPError
from ..weights.folder import CONFIG, WEIGHTS, check_weights, read_config, read_results
from ..weights.model_card import model_card

LICENCES = 'https://huggingface.co/docs/hub/repositories-licenses'


def _create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m gkgnet_timm push',
        description='Upload weights to the Hugging Face Hub, with a README.md that is made of config.json and of a '
        'result of validate.py. The folder is left as it is. Log in first: hf auth login.',
    )
    parser.add_argument('folder', metavar='DIR', help='with config.json and model.safetensors, of convert')
    parser.add_argument('--repo-id', required=True, metavar='ORG/NAME', help='repository, made where it does not exist')
    parser.add_argument('--results', metavar='FILE', help='json of validate.py --results-file')
    parser.add_argument('--license', metavar='ID', help=f'licence of the weights, of {LICENCES}, where config.json has '
                        'none or another one')  # fmt: skip
    parser.add_argument('--private', action='store_true', help='make the repository private')
    parser.add_argument('--dry-run', action='store_true', help='show what would be uploaded, send nothing')
    return parser


def _check_repo_id(repo_id: str) -> None:
    validate_repo_id(repo_id)
    if repo_id.count('/') != 1:
        raise ValueError(f'--repo-id has to be ORG/NAME, is {repo_id!r}.')


def _set_licence(config: Dict[str, Any], given: Optional[str], path: Path) -> Dict[str, Any]:
    """The config with the licence of the flag."""
    stated = config['pretrained_cfg'].get('license')
    if given is None:
        if not stated:
            raise ValueError(f'{str(path)!r} states no licence of the weights, give --license ID, see {LICENCES}.')
        return config
    if not re.fullmatch(r'[a-z0-9][a-z0-9.-]*', given):
        raise ValueError(f'--license {given!r} is no licence id such as apache-2.0, see {LICENCES}.')
    if given == 'other' != stated:
        raise ValueError(
            f"--license other says nothing of the terms: set 'license' and 'origin_url' in 'pretrained_cfg' of "
            f'{str(path)!r}.'
        )
    return {**config, 'pretrained_cfg': {**config['pretrained_cfg'], 'license': given}}


def _explain(error: Exception, repo_id: str) -> str:
    """What an error of the Hub means, in one sentence with its remedy."""
    if isinstance(error, RuntimeError) and error.__cause__:  # of the upload of a large file
        error = error.__cause__
    status = getattr(getattr(error, 'response', None), 'status_code', None)
    reason = ' '.join(str(error).split())
    if status == 401:
        return f'Hub refuses the upload to {repo_id!r}: no token, or not a valid one. Log in: hf auth login.'
    if status == 403:
        return f'Hub refuses the upload to {repo_id!r}: this token may not write there. Log in with one that may.'
    if status:
        return f'Hub answers the upload to {repo_id!r} with {status}: {reason[:300]}'
    return f'Upload to {repo_id!r} failed, check the network and try again ({type(error).__name__}: {reason[:300]}).'


def _upload(repo_id: str, files: Dict[str, Any], private: bool, message: str) -> str:
    """Make or update a repository, returns its URL."""
    api = HfApi(library_name='gkgnet_timm')
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    try:
        url = str(api.create_repo(repo_id, private=private or None, exist_ok=True))
        if private and not api.model_info(repo_id).private:
            raise ValueError(f'Repository {repo_id!r} exists and is public: make it private on the Hub first.')
        api.create_commit(repo_id, operations, commit_message=message)
    except (OSError, HTTPError, RuntimeError) as error:
        raise OSError(_explain(error, repo_id)) from error
    return url


def main(argv: Optional[List[str]] = None) -> None:
    """Upload as the flags say.

    Raises:
        FileNotFoundError: If the folder, a file in it or the file of results does not exist.
        OSError: If the Hub is not reached or refuses.
        ValueError: If weights, config, results or flags are not such that they can be uploaded.
    """
    args = _create_parser().parse_args(argv)
    folder = Path(args.folder)
    _check_repo_id(args.repo_id)
    stored = read_config(folder)
    config = _set_licence(stored, args.license, folder / CONFIG)
    results = read_results(args.results, config) if args.results else None
    check_weights(folder)
    card = model_card(config, args.repo_id, results)
    config_file = folder / CONFIG if config == stored else json.dumps(config, indent=2).encode()
    files = {CONFIG: config_file, WEIGHTS: folder / WEIGHTS, 'README.md': card.encode()}
    if args.dry_run:
        print(f'Would upload to {"private " if args.private else ""}repository {args.repo_id}:')
        for name, content in files.items():
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            print(f'{size:>13,} bytes  {name}')
        print(f'\n{card}', end='')
        return
    url = _upload(args.repo_id, files, args.private, f'Upload {config["architecture"]} by gkgnet_timm')
    print(url)
    print(f"import timm, gkgnet_timm; model = timm.create_model('hf-hub:{args.repo_id}', pretrained=True)")
