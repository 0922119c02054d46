"""What a run prints on its way."""

from gkgnet_timm.training import progress


def test_lines_of_a_resumed_run(monkeypatch, capsys):
    """Three epochs of five updates, of which the first is done; each update takes two seconds."""
    now = 0.0
    monkeypatch.setattr(progress.time, 'perf_counter', lambda: now)
    shown = progress.Progress(3, 1, 5, 2)
    for epoch in (1, 2):
        shown.start_epoch_bar(epoch)
        for update in range(5):
            now += 2
            shown.update(update, 8, 7 - update, 1e-3 * (update + 1))
        shown.close()
    assert capsys.readouterr().out.splitlines() == [
        f'epoch {epoch + 1}/3 [   {done}/5]  loss {8 - done:7.3f}  lr {done}.00e-03  4.0 img/s  0:00:{left:02} left'
        for epoch in (1, 2)
        for done, left in ((2, 26 - 10 * epoch), (4, 22 - 10 * epoch), (5, 20 - 10 * epoch))
    ]
