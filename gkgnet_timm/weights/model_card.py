"""Write the README.md of a folder of weights from its `config.json` and a result of `validate.py`, and nothing else."""

import json
import re
from typing import Any, Dict, List, Optional

import yaml
from huggingface_hub import EvalResult, ModelCardData

__all__ = ['METRICS', 'is_single_label', 'licence_data', 'model_card', 'public']

NON_COMMERCIAL = ('gkgnet-non-commercial', 'https://github.com/jin-s13/GKGNet')
FIGURES = ('CP', 'CR', 'CF1', 'OP', 'OR', 'OF1')
METRICS = ('mAP', 'mAP_present', 'AP_small', 'AP_medium', 'AP_large', *FIGURES, *(f'{name}_top3' for name in FIGURES))
_GKGNET_BIBTEX = """@inproceedings{yao2024gkgnet,
  title = {{GKGNet}: Group {K}-Nearest Neighbor based Graph Convolutional Network for Multi-Label Image Recognition},
  author = {Yao, Ruijie and Jin, Sheng and Xu, Lumin and Zeng, Wang and Liu, Wentao and Qian, Chen and Luo, Ping and
    Wu, Ji},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year = {2024},
  note = {arXiv:2308.14378},
}"""
_VIG_BIBTEX = """@inproceedings{han2022vision,
  title = {Vision {GNN}: An Image is Worth Graph of Nodes},
  author = {Han, Kai and Wang, Yunhe and Guo, Jianyuan and Tang, Yehui and Wu, Enhua},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year = {2022},
  note = {arXiv:2206.00272},
}"""
_FAMILIES = {'gkgnet': ('GKGNet', _GKGNET_BIBTEX), 'pvig': ('Pyramid ViG', _VIG_BIBTEX), 'vig': ('ViG', _VIG_BIBTEX)}


def _line(value: Any) -> str:
    """Return one line of printable text."""
    return ' '.join(''.join(c if c.isprintable() else ' ' for c in str(value)).split())


def _text(value: Any) -> str:
    """Escape text for Markdown and HTML."""
    return re.sub(r'([\\`*_{}\[\]<>#|&~$])', r'\\\1', _line(value))


def _code(value: Any) -> str:
    text = _line(value)
    ticks = '`' * (max(map(len, re.findall('`+', text)), default=0) + 1)
    space = ' ' if text[:1] == '`' or text[-1:] == '`' else ''
    return f'{ticks}{space}{text}{space}{ticks}'


def _link(url: Any) -> str:
    return f'<{url}>' if re.fullmatch(r'https?://[^\s<>]+', str(url)) else _code(url)


def _block(text: str, language: str = '') -> str:
    ticks = '`' * max(3, max(map(len, re.findall('`+', text)), default=0) + 1)
    return f'{ticks}{language}\n{text.strip()}\n{ticks}'


def _file_name(path: Any) -> str:
    return re.split(r'[/\\]', str(path).rstrip('/\\'))[-1]


def public(value: Any) -> Any:
    """Return a value without the folders of this machine."""
    if isinstance(value, dict):
        return {name: public(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(item) for item in value]
    if isinstance(value, str) and re.match(r'[/~\\]|[A-Za-z]:\\|\.\.', value):
        return _file_name(value)
    return value


def is_single_label(config: Dict[str, Any]) -> bool:
    """Say whether these are the ImageNet weights of a ViG, for which an image has one class."""
    is_vig = config['architecture'].startswith(('pvig', 'vig')) and config['num_classes'] == 1000
    return is_vig and str(config['pretrained_cfg'].get('tag')).startswith('in1k') and 'training' not in config


def _is_published_gkgnet(config: Dict[str, Any]) -> bool:
    """Say whether weights may be those of the authors: not if the trunk is a model of timm."""
    return bool(re.fullmatch(r'gkgnet_((ti|m|b)_)?\d+', config['architecture']))


def _label_names(config: Dict[str, Any]) -> List[str]:
    return list(map(str, config.get('label_names') or config['pretrained_cfg'].get('label_names') or ()))


def licence_data(config: Dict[str, Any]) -> Dict[str, Optional[str]]:
    """Return what the Hub takes for the licence of weights in the header of a README.md."""
    cfg = config['pretrained_cfg']
    if not cfg.get('license'):
        return {}
    known = dict(license=_line(cfg['license']))
    if known['license'] == 'other':
        licence, link = NON_COMMERCIAL if _is_published_gkgnet(config) else (None, None)
        known.update(license_name=licence, license_link=_line(cfg.get('origin_url') or link or '') or None)
    return known


def _header(config: Dict[str, Any], name: str, results: Optional[Dict[str, Any]]) -> str:
    known = licence_data(config)
    if results:
        dataset = _line(public(results['dataset']))
        split = _line(public(results['split'])) if results.get('split') else None
        known['model_name'] = name
        known['eval_results'] = [
            EvalResult(
                task_type='image-classification',
                task_name='Image classification' if is_single_label(config) else 'Multi-label image classification',
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split=split,
                metric_type=metric,
                metric_name=metric,
                metric_value=round(results[metric], 4),
            )
            for metric in ('mAP', 'CF1', 'OF1')
            if metric in results
        ]
    family = next((prefix for prefix in _FAMILIES if config['architecture'].startswith(prefix)), None)
    tags = ['timm', 'image-classification', *([] if is_single_label(config) else ['multi-label'])]
    tags += ['gkgnet-timm', *([family] if family else [])]
    return ModelCardData(library_name='timm', pipeline_tag='image-classification', tags=tags, **known).to_yaml()


_THRESHOLDS = (
    'The lowest score of each label, of highest F1 on a labelled split, is in `config.json` under `thresholds`: '
    '`python -m gkgnet_timm predict` takes it.'
)


def _usage(config: Dict[str, Any], source: str) -> str:
    names = _label_names(config)
    single = is_single_label(config)
    shown = 'scores.topk(5)' if single else 'scores'
    if names and not single:
        shown = '{name: score for name, score in zip(names, scores.tolist()) if score >= 0.5}'
    lines = [
        'import timm, gkgnet_timm  # the second import registers the architecture',
        'import torch',
        'from PIL import Image',
        '',
        f'model = timm.create_model({source!r}, pretrained=True).eval()',
        'transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))',
        "image = Image.open('image.jpg').convert('RGB')",
        'with torch.inference_mode():',
        f'    scores = model(transform(image)[None]).{"softmax(-1)" if single else "sigmoid()"}[0]',
        *(["names = model.pretrained_cfg['label_names']"] if names and not single else []),
        f'print({shown})',
    ]
    return _block('\n'.join(lines), 'python')


def _metrics(results: Dict[str, Any]) -> str:
    place = f'Split {_code(public(results["split"]))} of' if results.get('split') else 'Data set'
    facts = [f'{place} {_code(public(results["dataset"]))}', f'{results["images"]} images']
    if results.get('img_size'):
        facts.append(f'at {_line(results["img_size"])} px')
    if results.get('checkpoint'):
        facts.append(f'file {_code(_file_name(results["checkpoint"]))}')
    titles = {name: name.replace('_top3', ', top 3').replace('_', ' ') for name in METRICS}
    titles['mAP_present'] = 'mAP of the classes with positives'
    rows = [f'| {title} | {results[name]:.2f} |' for name, title in titles.items() if name in results]
    if isinstance(results.get('chance'), float):
        rows.append(f'| mAP by chance | {results["chance"]:.2f} |')
    warning = [f'**Warning**: {_text(results["warning"])}', ''] if results.get('warning') else []
    return '\n'.join([f'{", ".join(facts)}.', '', *warning, '| | % |', '|---|---:|', *rows])


def _preprocessing(cfg: Dict[str, Any]) -> str:
    names = ('input_size', 'crop_mode', 'crop_pct', 'interpolation', 'mean', 'std')
    values = {
        name.replace('_', ' '): _code(cfg[name]).replace('|', '\\|') for name in names if cfg.get(name) is not None
    }
    rows = [f'| {name} | {value} |' for name, value in values.items()]
    return '\n'.join(['| | |', '|---|---|', *rows]) if rows else ''


def _training(config: Dict[str, Any]) -> str:
    parts, source = [], config.get('converted_from') or {}
    if source.get('file'):
        digest = f', SHA-256 {_code(source["sha256"])}' if source.get('sha256') else ''
        kind = ', the average of its weights' if source.get('ema') else ''
        parts.append(f'Converted from {_code(_file_name(source["file"]))}{kind}{digest}.')
    if config.get('training'):
        flags = yaml.safe_dump(public(config['training']), sort_keys=False, allow_unicode=True, width=100)
        parts.append(f'Trained by `train_multilabel.py`, with these flags among others:\n\n{_block(flags, "yaml")}')
    return '\n\n'.join(parts)


def _licence(cfg: Dict[str, Any], is_gkgnet: bool) -> str:
    if not cfg.get('license'):
        return ''
    if cfg['license'] != 'other':
        return f'Weights: {_code(cfg["license"])}.'
    link = cfg.get('origin_url') or (NON_COMMERCIAL[1] if is_gkgnet else '')
    terms = 'Weights: free for non-commercial use only' if is_gkgnet else 'Weights: terms of their own'
    return f'{terms}, see {_link(link)}.' if link else f'{terms}.'


def model_card(config: Dict[str, Any], repo_id: Optional[str] = None, results: Optional[Dict[str, Any]] = None) -> str:
    """Return the README.md of a folder of weights.

    Args:
        config: Content of its `config.json`, as `folder.read_config` returns it.
        repo_id: 'ORG/NAME' of the repository on the Hub, None for a folder that is not there.
        results: Result of `validate.py`, as `folder.read_results` returns it.
    """
    cfg, names = config['pretrained_cfg'], _label_names(config)
    name = repo_id.rpartition('/')[2] if repo_id else config['architecture']
    family, bibtex = next((_FAMILIES[key] for key in _FAMILIES if config['architecture'].startswith(key)), (None, ''))
    task = 'one of' if is_single_label(config) else 'multi-label image recognition, with a score for each of'
    facts = [f'- Architecture: {_code(config["architecture"])}' + (f' ({family})' if family else '')]
    if config.get('model_args'):
        facts.append(f'- Arguments: {_code(json.dumps(config["model_args"], ensure_ascii=False))}')
    paper = str(cfg.get('paper_ids') or '').removeprefix('arXiv:')
    if re.fullmatch(r'\d{4}\.\d{4,5}', paper):
        facts.append(f'- Paper: [{_text(cfg.get("paper_name") or paper)}](https://arxiv.org/abs/{paper})')
    if cfg.get('origin_url'):
        facts.append(f'- Origin: {_link(cfg["origin_url"])}')
    intro = f'A model for {task} {config["num_classes"]} classes.'
    classes = ''
    if names:
        lines = [json.dumps(label, ensure_ascii=not label.isprintable()) for label in names]
        summary = f'{len(names)} classes, in the order of the scores'
        block = _block('\n'.join(lines), 'json')
        classes = f'<details><summary>{summary}</summary>\n\n{block}\n\n</details>'
    sections = {
        'Use': _usage(config, f'hf-hub:{repo_id}' if repo_id else 'local-dir:.'),
        'Classes': classes,
        'Thresholds': _THRESHOLDS if config.get('thresholds') else '',
        'Evaluation': _metrics(results) if results else '',
        'Preprocessing': _preprocessing(cfg),
        'Weights': _training(config),
        'Licence': _licence(cfg, _is_published_gkgnet(config)),
        'Citation': _block(bibtex, 'bibtex') if bibtex else '',
    }
    body = [f'# {_text(name)}', intro, '\n'.join(facts)]
    body += [f'## {title}\n\n{text}' for title, text in sections.items() if text]
    return f'---\n{_header(config, repo_id or name, results)}\n---\n\n' + '\n\n'.join(body) + '\n'
