"""The plot of a training run."""

from pictures import read_picture

from gkgnet_timm.training import curves


def drawn_lines(rows, folder, monkeypatch):
    """The (label, epochs, values) of each line, by panel."""
    figures = []
    create_figure = curves.create_figure
    with monkeypatch.context() as patch:
        patch.setattr(curves, 'create_figure', lambda **kwargs: figures.append(create_figure(**kwargs)) or figures[0])
        (folder / 'summary.csv').write_text('\n'.join(rows) + '\n')
        curves.draw_curves(folder / 'summary.csv', folder / 'curves.png', 'mAP')
    return {
        axes.get_title(): [
            (line.get_label(), line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines
        ]
        for axes in figures[0].axes
    }


def test_validation_loss_is_beside_that_of_training(tmp_path, monkeypatch):
    """A run that was resumed by a later version, or has no evaluation, has it for some epochs or for none."""
    rows = ['epoch,train_loss,eval_mAP,lr,eval_criterion', '0,9,20,0.1,', '1,7,40,0.2,8.5', '2,5,30,0.3,7.5']
    drawn = drawn_lines(rows, tmp_path, monkeypatch)
    assert drawn['loss'] == [('training', [1, 2, 3], [9, 7, 5]), ('validation', [2, 3], [8.5, 7.5])]
    drawn = drawn_lines(['epoch,train_loss,lr', '0,9,0.1'], tmp_path, monkeypatch)
    assert drawn['loss'] == [('training', [1], [9])] and drawn['mAP'] == []


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
