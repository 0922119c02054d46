"""The plot of a training run."""

from pictures import read_picture

from gkgnet_timm.training import curves


def test_curves_are_those_of_the_summary(tmp_path, monkeypatch):
    figures = []
    create_figure = curves.create_figure
    monkeypatch.setattr(curves, 'create_figure', lambda **kwargs: figures.append(create_figure(**kwargs)) or figures[0])
    rows = ['epoch,train_loss,eval_loss,eval_mAP,eval_CF1,lr', '0,9,8,20,1,0.1', '1,7,6,40,2,0.2', '2,5,4,30,3,0.3']
    (tmp_path / 'summary.csv').write_text('\n'.join(rows) + '\n')
    curves.draw_curves(tmp_path / 'summary.csv', tmp_path / 'curves.png', 'mAP')
    read_picture(tmp_path / 'curves.png')
    drawn = {
        axes.get_title(): [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines]
        for axes in figures[0].axes
    }
    values = {'loss': [9, 7, 5], 'learning rate': [0.1, 0.2, 0.3], 'mAP': [20, 40, 30]}
    assert drawn == {title: [([1, 2, 3], value)] for title, value in values.items()}
