"""Make a Space for the Hugging Face Hub: a page where one drops an image and sees its labels."""

from typing import Any, Dict

from huggingface_hub import SpaceCardData

from ..version import __version__
from .model_card import is_single_label, licence_data

__all__ = ['TAG', 'space_files']

GRADIO, PYTHON = '6.31.0', '3.12'  # the Hub installs these
TAG = 'gkgnet-timm'  # by which a Space is known to be ours
_README = """# Labels of an image

The model [`{model}`](https://huggingface.co/{model}) says which of its {classes} labels are in an image{graph}.

`app.py` was written by `python -m gkgnet_timm push --space`, version {version}. To run it on your own machine:

```bash
pip install -r requirements.txt gradio=={gradio}
python app.py
```
"""
_GRAPH = ', and shows where it looked for each'
_PRIVATE = """
The model is private: add a token that may read it to the secrets of this Space, under the name `HF_TOKEN`.
"""
_APP = '''"""The labels of an image, and of a model with a label graph, where each of them looked."""

import gradio as gr
import numpy as np

import gkgnet_timm
from gkgnet_timm.explanation.explain import has_label_graph
from gkgnet_timm.inference.predictor import class_names_of

MODEL = {model}

model = gkgnet_timm.load_model(f'hf-hub:{MODEL}')
names = class_names_of(model)
thresholds = np.float32(model.thresholds or [0.5] * len(names))
has_graph = has_label_graph(model)


class Upload(gr.Image):
    """An image to upload. Of a file that is none the visitor hears in a sentence."""

    is_template = True  # looks like a gr.Image

    def preprocess(self, payload):
        try:
            return super().preprocess(payload)
        except Exception as error:  # damaged files make Pillow raise anything
            raise gr.Error('This file is no image that can be read.') from error


def clear():
    """Return what is shown without an image."""
    return None, gr.Radio([], value=None), None, None


def predict(file):
    """Return the labels of an image with their scores, and the choice of one to look at."""
    if file is None:
        return clear()[:2]
    ((_, scores, error),) = gkgnet_timm.predict_images(model, [file], find=False)
    if error:
        raise gr.Error(f'Cannot read this image: {error}')
    if not np.isfinite(scores).all():
        raise gr.Error('The scores are not finite: the weights are broken.')
    order = np.argsort(-scores, kind='stable')
    found = [i for i in order if scores[i] >= thresholds[i]]
    shown = {names[i]: float(scores[i]) for i in found or order[:1]}
    title = 'Labels at or above their threshold' if found else 'No label reaches its threshold. The best one'
    return gr.Label(shown, label=title), gr.Radio(list(shown), value=next(iter(shown)))


def explain(file, label):
    """Return the image, dimmed where a label did not look, and the picture of the patches that it chose."""
    if file is None or label is None:
        return None, None
    try:
        explanation = gkgnet_timm.explain(model, file, labels=[label])
    except (OSError, RuntimeError, ValueError) as error:
        raise gr.Error(str(error)) from error
    return explanation.overlay(label, 640), explanation.draw()


with gr.Blocks(title=MODEL, analytics_enabled=False, delete_cache=(3600, 3600)) as demo:
    gr.Markdown(f'Labels of an image by [{MODEL}](https://huggingface.co/{MODEL})')
    with gr.Row():
        image = Upload(type='filepath', image_mode=None, label='Image')
        with gr.Column():
            labels = gr.Label(label='Labels', show_heading=False)
            choice = gr.Radio([], label='Where did this label look?', visible=has_graph)
            overlay = gr.Image(label='Dimmed where it did not look', interactive=False, visible=has_graph)
    picture = gr.Plot(show_label=False, visible=has_graph)

    cleared = image.change(clear, None, [labels, choice, overlay, picture], api_visibility='private')
    shared = dict(concurrency_id='model', concurrency_limit=1)  # one at a time: they share the model
    done = cleared.then(predict, image, [labels, choice], **shared)
    if has_graph:
        done.success(explain, [image, choice], [overlay, picture], **shared)
        choice.input(explain, [image, choice], [overlay, picture], api_visibility='private', **shared)

if __name__ == '__main__':
    demo.launch(show_error=True, max_file_size='50mb')
'''


def space_files(config: Dict[str, Any], repo_id: str, private: bool = False) -> Dict[str, str]:
    """Return the files of a Space by name.

    Args:
        config: Content of the `config.json` of the model, as `folder.read_config` returns it.
        repo_id: 'ORG/NAME' of the model on the Hub.
        private: Whether the model is private.

    Raises:
        ValueError: If the model tells one class of an image, not labels.
    """
    if is_single_label(config):
        raise ValueError(f'--space is for labels with scores of their own, {config["architecture"]} tells one class.')
    has_graph = config['architecture'].startswith('gkgnet')
    header = SpaceCardData(
        title=repo_id.partition('/')[2],
        sdk='gradio',
        sdk_version=GRADIO,
        python_version=PYTHON,
        app_file='app.py',
        models=[repo_id],
        tags=['image-classification', 'multi-label', TAG],
        short_description='Labels of an image, and where the model looked' if has_graph else 'Labels of an image',
        **licence_data(config),
    )
    text = _README.format(
        model=repo_id,
        classes=config['num_classes'],
        graph=_GRAPH if has_graph else '',
        version=__version__,
        gradio=GRADIO,
    )
    return {
        'README.md': f'---\n{header.to_yaml()}\n---\n\n{text}{_PRIVATE if private else ""}',
        'app.py': _APP.replace('{model}', repr(repo_id), 1),
        'requirements.txt': f'gkgnet-timm=={__version__}\n',
    }
