"""Upload a folder of weights to the Hugging Face Hub, with a model card, and a Space that shows the model."""

import json
import re
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Union

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, SpaceInfo
from huggingface_hub.utils import validate_repo_id

from ..runtime import one_line
from .file import HTTPError
from .folder import CONFIG, EXPORTED, WEIGHTS, check_weights, is_export, read_config, read_model_config, read_results
from .model_card import model_card
from .space import TAG, space_files

__all__ = ['Pushed', 'push']

LICENCES = 'https://huggingface.co/docs/hub/repositories-licenses'


class Pushed(NamedTuple):
    """What `push` uploaded, or would upload."""

    url: Optional[str]  # of the repository, None for a dry run
    sizes: Dict[str, int]  # bytes of each file
    card: str  # README.md
    is_exported: bool  # files that run without timm, rather than weights
    space: Dict[str, str]  # files of the Space by name, empty without one
    space_url: Optional[str]


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


def _check_repo_id(repo_id: str, flag: str) -> None:
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ValueError(f'{flag}: {one_line(error)}') from error
    if repo_id.count('/') != 1:
        raise ValueError(f'{flag} must be ORG/NAME, is {repo_id!r}.')


def _explain(error: Exception, place: str) -> str:
    """Say what an error of the Hub means, in one sentence with its remedy."""
    if isinstance(error, RuntimeError) and error.__cause__:  # raised by the upload of a large file
        error = error.__cause__
    status = getattr(getattr(error, 'response', None), 'status_code', None)
    reason = one_line(error)
    if status == 401:
        return f'The Hub refuses the upload to {place}: no valid token. Log in: hf auth login.'
    if status == 403:
        return f'The Hub refuses the upload to {place}: this token may not write there. Log in with one that may.'
    if status:
        return f'The Hub answers the upload to {place} with {status}: {reason}'
    return f'Upload to {place} failed, check the network and try again ({type(error).__name__}: {reason}).'


def _upload(
    repo_id: str, files: Dict[str, Union[Path, bytes]], private: bool, message: str, is_space: bool = False
) -> str:
    """Create or update a repository, or once the model is uploaded a Space for it, and return its URL."""
    api = HfApi(library_name='gkgnet_timm')
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    kind = 'space' if is_space else 'model'
    place = f'Space {repo_id!r} (the model is uploaded)' if is_space else repr(repo_id)
    sdk = dict(space_sdk='gradio') if is_space else {}
    try:
        url = str(api.create_repo(repo_id, repo_type=kind, private=private or None, exist_ok=True, **sdk))
        info = api.repo_info(repo_id, repo_type=kind) if private or is_space else None
        if private and not info.private:
            name = place if is_space else f'Repository {place}'
            raise ValueError(f'{name} exists and is public: make it private on the Hub first.')
        if is_space and not _is_ours(info):
            raise ValueError(f'{place} exists with another app.py: name one for this model, --space ORG/NAME.')
        api.create_commit(repo_id, operations, commit_message=message, repo_type=kind)
    except (OSError, HTTPError, RuntimeError) as error:
        raise OSError(_explain(error, place)) from error
    return url


def _is_ours(info: SpaceInfo) -> bool:
    """Whether a Space is new, or was made by `push`."""
    tags = (info.card_data.tags if info.card_data else None) or ()
    return TAG in tags or not any(file.rfilename == 'app.py' for file in info.siblings or ())


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
    space: Optional[str] = None,
    dry_run: bool = False,
) -> Pushed:
    """Upload a folder of weights, which stays as it is, with a model card made from its config; or one of an export.

    Args:
        folder: With config.json and model.safetensors, as `convert` writes it, or as `export` does.
        repo_id: 'ORG/NAME', created if it does not exist.
        results: File of `validate.py --results-file` for the model card of weights.
        license: Licence of the weights if not that of config.json, an id of the Hub.
        private: Make the repository private, and the Space.
        space: 'ORG/NAME' of a Space for the model, created if it does not exist; None for no Space.
        dry_run: Check everything, send nothing.

    Raises:
        FileNotFoundError: If the folder, a file in it or the file of results does not exist.
        OSError: If the Hub cannot be reached or refuses.
        ValueError: If weights, config, results, repository name or licence are not fit to upload.
    """
    folder = Path(folder)
    _check_repo_id(repo_id, '--repo-id')
    if space is not None:
        _check_repo_id(space, '--space')
    is_exported = is_export(folder)
    stored = read_model_config(folder / CONFIG) if is_exported else read_config(folder)
    config = _set_licence(stored, license, folder / CONFIG)
    if is_exported:
        if results:
            raise ValueError(f'--results: the README.md of an export ({str(folder)!r}) is uploaded as it is.')
        if space is not None:
            raise ValueError(f'--space: {str(folder)!r} is an export, push the folder of weights that convert writes.')
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
    pages = space_files(config, repo_id, private) if space is not None else {}
    message = f'Upload {config["architecture"]} by gkgnet_timm'
    if dry_run:
        return Pushed(None, sizes, card, is_exported, pages, None)
    url = _upload(repo_id, files, private, message)
    contents = {name: text.encode() for name, text in pages.items()}
    space_url = _upload(space, contents, private, message, is_space=True) if pages else None
    return Pushed(url, sizes, card, is_exported, pages, space_url)
