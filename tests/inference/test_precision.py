"""The choice of mixed precision: by the speed of the machine, or as it is asked for."""

import pytest
import torch

from gkgnet_timm.commands.flags.predict import create_parser
from gkgnet_timm.inference import precision
from gkgnet_timm.inference.device import autocast_context
from gkgnet_timm.inference.precision import choose_amp

CPU = torch.device('cpu')


@pytest.fixture
def speed(monkeypatch):
    """Sets how many times as fast half precision is."""
    return lambda ratio: monkeypatch.setattr(precision, 'speed_of_half', lambda device, amp_dtype: ratio)


@pytest.mark.parametrize('ratio, chosen', [(0.1, False), (1.2, False), (1.3, True), (8.0, True)])
def test_auto_goes_by_speed(speed, capsys, ratio, chosen):
    speed(ratio)
    assert choose_amp('auto', 'bfloat16', CPU) is chosen
    printed = capsys.readouterr().err
    assert printed.startswith('--amp auto: mixed precision in bfloat16' if chosen else '--amp auto: float32')
    assert f'{ratio:.1f} times as fast' in printed
    choose_amp('auto', 'bfloat16', CPU, prints=False)
    assert not capsys.readouterr().err


def test_what_is_asked_for_is_obeyed(speed, capsys):
    speed(0.25)
    assert choose_amp(True, 'float16', CPU)
    assert 'Warning: matrix products in float16 take 4.0 times as long' in capsys.readouterr().err
    speed(1.1)
    assert choose_amp(True, 'float16', CPU)
    assert not choose_amp(False, 'float16', CPU) and not choose_amp(None, 'float16', CPU)
    assert not capsys.readouterr().err


@pytest.mark.parametrize('amp_dtype', ['bfloat16', 'float16'])
def test_speed_is_measured(amp_dtype):
    """Never the same time twice, but on no machine are these a hundred times apart."""
    assert 0.001 < precision.speed_of_half(CPU, amp_dtype) < 100


@pytest.mark.parametrize('float32, bfloat16, ratio', [(4e-3, 1e-3, 4.0), (1e-3, 0.1, 0.01)])
def test_the_start_of_libraries_is_not_measured(monkeypatch, float32, bfloat16, ratio):
    """The first product of a process may take long, which says nothing of its type."""
    asked = []

    def seconds(a, b):
        asked.append(a.dtype)
        return 1.0 if len(asked) < 3 else float32 if a.dtype == torch.float32 else bfloat16

    monkeypatch.setattr(precision, '_product_seconds', seconds)
    assert precision.speed_of_half.__wrapped__(CPU, 'bfloat16') == pytest.approx(ratio)
    assert asked[:4] == [torch.float32, torch.bfloat16] * 2
    assert len(asked) == (12 if bfloat16 < 0.05 else 4)


def test_other_values_are_refused():
    with pytest.raises(ValueError, match="'auto', got 'fast'"):
        choose_amp('fast', 'bfloat16', CPU)
    with pytest.raises(ValueError, match="True or False, got 'auto'"):
        autocast_context(CPU, 'auto')


@pytest.mark.parametrize(
    'flags, amp, images',
    [
        ([], None, []),
        (['--amp'], True, []),
        (['--no-amp'], False, []),
        (['--amp', 'auto'], 'auto', []),
        (['--amp=auto'], 'auto', []),
        (['--amp', 'auto', '--no-amp'], False, []),
        (['--amp', 'auto', 'auto'], 'auto', ['auto']),
    ],
)
def test_flag(flags, amp, images):
    """An image after --amp is an image."""
    args = create_parser().parse_args([*flags, 'a.jpg'])
    assert args.amp == amp and args.images == [*images, 'a.jpg']


def test_flag_with_another_value():
    with pytest.raises(ValueError, match='--amp'):
        create_parser().parse_args(['a.jpg', '--amp=fast'])
