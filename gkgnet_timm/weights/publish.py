"""Upload a folder of weights to the Hugging Face Hub, with a model card."""

import json
import re
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Union

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.utils import validate_repo_id

from ..runtime import one_line
from .file import HTTPError
from .folder import CONFIG, EXPORTED, WEIGHTS, check_weights, is_export, read_config, read_model_config, read_results
from .model_card import model_card

__all__ = ['Pushed', 'push']

LICENCES = 'https://huggingface.co/docs/hub/repositories-licenses'


class Pushed(NamedTuple):
    """What `push` uploaded, or would upload."""

    url: Optional[str]  # of the repository, None for a dry run
    sizes: Dict[str, int]  # bytes of each file
    card: str  # README.md
    is_exported: bool  # files that run without timm, rather than weights


def _set_licence(config: Dict[str, Any], given: Optional[str], path: Path) -> Dict[str, Any]:
    """Return the config with the licence that was given, if any."""
    stated = config['pretrained_cfg'].get('license')
    if given is None:
        if not stated:
            raise ValueError(f'{str(path)!r} states no licence of the weights, give --license ID, see {LICENCES}.')
        return config
    if not re.fullmatch(r'[a-z0-9][a-z0-9.-]*', given):
        raise ValueError(f'--license {given!r} is not a licence id such as apache-2.0, see {LICENCES}.')
    if given == 'other' != stated:
        raise ValueError(
            f"--license other does not state the terms: set 'license' and 'origin_url' in 'pretrained_cfg' of "
            f'{str(path)!r}.'
        )
    return {**config, 'pretrained_cfg': {**config['pretrained_cfg'], 'license': given}}


def _explain(error: Exception, repo_id: str) -> str:
    """Say what an error of the Hub means, in one sentence with its remedy."""
    if isinstance(error, RuntimeError) and error.__cause__:  # raised by the upload of a large file
        error = error.__cause__
    status = getattr(getattr(error, 'response', None), 'status_code', None)
    reason = one_line(error)
    if status == 401:
        return f'The Hub refuses the upload to {repo_id!r}: no valid token. Log in: hf auth login.'
    if status == 403:
        return f'The Hub refuses the upload to {repo_id!r}: this token may not write there. Log in with one that may.'
    if status:
        return f'The Hub answers the upload to {repo_id!r} with {status}: {reason}'
    return f'Upload to {repo_id!r} failed, check the network and try again ({type(error).__name__}: {reason}).'


def _upload(repo_id: str, files: Dict[str, Union[Path, bytes]], private: bool, message: str) -> str:
    """Create or update a repository and return its URL."""
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


def _exported_card(folder: Path, config: Dict[str, Any]) -> str:
    """Return the README.md of an export with the licence of its config.

    Raises:
        FileNotFoundError: If one of the files of the export is missing.
    """
    names = [f'model.{name}' for name in config['exported'].get('formats', ())]
    for name in ('README.md', 'selected_tags.csv', *names):
        if not (folder / name).is_file():
            raise FileNotFoundError(f'Folder {str(folder)!r} has no {name}: export the model again.')
    card = ModelCard((folder / 'README.md').read_text(encoding='utf-8'))
    card.data.license = config['pretrained_cfg']['license']
    return str(card)


def push(
    folder: Union[str, Path],
    repo_id: str,
    *,
    results: Union[str, Path, None] = None,
    license: Optional[str] = None,
    private: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Upload a folder of weights, which stays as it is, with a model card made from its config; or one of an export.

    Args:
        folder: With config.json and model.safetensors, as `convert` writes it, or as `export` does.
        repo_id: 'ORG/NAME', created if it does not exist.
        results: File of `validate.py --results-file` for the model card of weights.
        license: Licence of the weights if not that of config.json, an id of the Hub.
        private: Make the repository private.
        dry_run: Check everything, send nothing.

    Raises:
        FileNotFoundError: If the folder, a file in it or the file of results does not exist.
        OSError: If the Hub cannot be reached or refuses.
        ValueError: If weights, config, results, repository name or licence are not fit to upload.
    """
    folder = Path(folder)
    validate_repo_id(repo_id)
    if repo_id.count('/') != 1:
        raise ValueError(f'--repo-id must be ORG/NAME, is {repo_id!r}.')
    is_exported = is_export(folder)
    stored = read_model_config(folder / CONFIG) if is_exported else read_config(folder)
    config = _set_licence(stored, license, folder / CONFIG)
    if is_exported:
        if results:
            raise ValueError(f'--results: the README.md of an export ({str(folder)!r}) is uploaded as it is.')
        card = _exported_card(folder, config)
        names = [name for name in EXPORTED if (folder / name).is_file()]
    else:
        result = read_results(results, config) if results else None
        check_weights(folder)
        card = model_card(config, repo_id, result)
        names = [CONFIG, WEIGHTS]
    config_file = folder / CONFIG if config == stored else json.dumps(config, indent=2).encode()
    files = {**{name: folder / name for name in names}, CONFIG: config_file, 'README.md': card.encode()}
    sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files.items()}
    message = f'Upload {config["architecture"]} by gkgnet_timm'
    url = None if dry_run else _upload(repo_id, files, private, message)
    return Pushed(url, sizes, card, is_exported)
