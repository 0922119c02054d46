"""Make the pictures of docs/pictures: where labels look in a scene that is drawn here.

Run it in the root of the repository: PYTHONPATH=. python docs/make_pictures.py CHECKPOINT
with a checkpoint of `train_multilabel.py --config demo`.
"""

import sys
from pathlib import Path

import numpy as np

import gkgnet_timm
from gkgnet_timm.data.demo import draw_scene
from gkgnet_timm.evaluation.figures import save_figure

FOLDER = Path(__file__).parent / 'pictures'
SEED = (7, 14)  # of a scene that is in neither split of the demo set
PATCH = (23, 20)


def main(checkpoint: str) -> None:
    model = gkgnet_timm.load_model(checkpoint)
    scene, objects = draw_scene(np.random.default_rng(SEED))
    FOLDER.mkdir(exist_ok=True)
    labels = sorted({name for name, _, _ in objects})
    for name, options in dict(labels=dict(labels=labels), patch=dict(patch=PATCH)).items():
        explanation = gkgnet_timm.explain(model, scene, **options)
        save_figure(explanation.draw(), FOLDER / f'{name}.png')


if __name__ == '__main__':
    main(sys.argv[1])
