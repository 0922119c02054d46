"""The plot of a training run."""

import pytest
from pictures import read_picture

from gkgnet_timm.training import curves


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draw a summary; returns the figure, and the (label, epochs, values) of each line by panel."""

    def draw_rows(*rows, metric='mAP', name='run'):
        figures = []
        create_figure = curves.create_figure
        with monkeypatch.context() as patch:
            patch.setattr(
                curves, 'create_figure', lambda **kwargs: figures.append(create_figure(**kwargs)) or figures[0]
            )
            (tmp_path / 'summary.csv').write_text('\n'.join(rows) + '\n')
            curves.draw_curves(tmp_path / 'summary.csv', tmp_path / 'curves.png', metric, name)
        read_picture(tmp_path / 'curves.png')
        return figures[0], {
            axes.get_title(): [
                (line.get_label(), list(line.get_xdata()), list(line.get_ydata()))
                for line in axes.lines
                if not line.get_label().startswith('best')
            ]
            for axes in figures[0].axes
        }

    return draw_rows


def test_validation_loss_is_beside_that_of_training(draw):
    """A run that was resumed by a later version, or has no evaluation, has it for some epochs or for none."""
    _, drawn = draw('epoch,train_loss,eval_mAP,lr,eval_loss', '1,9,20,0.1,', '2,7,40,0.2,8.5', '3,5,30,0.3,7.5')
    assert drawn['loss'] == [('training', [1, 2, 3], [9, 7, 5]), ('validation', [2, 3], [8.5, 7.5])]
    _, drawn = draw('epoch,train_loss,lr', '1,9,0.1')
    assert drawn['loss'] == [('training', [1], [9])] and drawn['mAP'] == []


ROWS = (
    'epoch,train_loss,eval_loss,eval_bce,eval_mAP,eval_chance,best_epoch,lr',
    '1,9,8,0.3,20,15,1,0.1',
    '2,7,6,0.1,40,15,2,0.2',
    '3,5,4,0.2,30,15,2,0.3',
)


def test_curves_are_those_of_the_summary(draw):
    figure, drawn = draw(*ROWS, name='Versuch 猫 $1')
    assert drawn == {
        'loss': [('training', [1, 2, 3], [9, 7, 5]), ('validation', [1, 2, 3], [8, 6, 4])],
        'learning rate': [('learning rate', [1, 2, 3], [0.1, 0.2, 0.3])],
        'mAP': [('mAP', [1, 2, 3], [20, 40, 30]), ('chance', [1, 2, 3], [15, 15, 15])],
    }
    assert figure.get_suptitle() == r'Versuch 猫 \$1'
    best = [
        [line.get_xdata() for line in axes.lines if line.get_label() == 'best mAP, epoch 2'] for axes in figure.axes
    ]
    assert best == [[[2, 2]], [[2, 2]], []]
    shown = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert shown == ['mAP', 'chance', 'best mAP, epoch 2']


def test_metric_that_is_a_loss(draw):
    _, drawn = draw(*ROWS, metric='loss')
    assert list(drawn) == ['loss', 'learning rate'] and len(drawn['loss']) == 2
    _, drawn = draw(*ROWS, metric='bce')
    assert drawn['bce'] == [('bce', [1, 2, 3], [0.3, 0.1, 0.2])]
