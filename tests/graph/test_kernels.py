"""The GPU kernels: what they compute, their operators, when they are used, what becomes of failures, that they build.

What they compute is tested in `kernel_cases.py`, in processes of their own: without a GPU, Triton interprets kernels.
"""

import logging
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SUPPORT
from test_graph import aggregation
from tiny import nodes

from gkgnet_timm.graph import eager, gpu, interleave_max_relative, knn_neighbors
from gkgnet_timm.layers.position import relative_position_tables

TRITON = '3.8'  # before it, the interface of the compiler was another one, and the interpreter has faults of its own


def run_python(*args, **env):
    path = os.pathsep.join([str(ROOT), str(SUPPORT.parent), str(SUPPORT), os.environ.get('PYTHONPATH', '')])
    env = (
        {key: value for key, value in os.environ.items() if not key.startswith('PYTEST_')} | {'PYTHONPATH': path} | env
    )
    result = subprocess.run([sys.executable, *args], env=env, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-3000:]
    return result.stdout


def test_what_kernels_compute():
    pytest.importorskip('triton', minversion=TRITON)
    options = ['-q', '-p', 'no:cacheprovider', '-p', 'no:xdist']
    interpret = str(int(not torch.cuda.is_available()))
    out = run_python('-m', 'pytest', *options, str(SUPPORT / 'kernel_cases.py'), TRITON_INTERPRET=interpret)
    assert ' passed' in out and ' skipped' not in out


BUILD = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gkgnet_timm.graph import gpu_kernels as kernels, gpu_search

def build(kernel, pointers, **constants):
    types = dict(pointers)
    for name in kernel.arg_names:
        types.setdefault(name, 'constexpr' if name in constants else 'i32')
    types = {name: types[name] for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=types, constexprs=constants)
    print(kernel.__name__, len(triton.compile(source, target=GPUTarget('cuda', 90, 32)).asm['cubin']))

for dtype in ('*fp32', '*bf16'):
    nodes = dict(x_ptr=dtype, y_ptr=dtype)
    pointers = nodes | {f'{n}_ptr': '*fp32' for n in ('x_scale', 'y_scale', 'row', 'col')} | {'out_ptr': '*i64'}
    tile = dict(BLOCK_N=16, BLOCK_M=64, BLOCK_C=64) if dtype == '*bf16' else dict(BLOCK_N=16, BLOCK_M=128, BLOCK_C=32)
    tile['PRECISION'] = 'ieee' if dtype == '*bf16' else 'tf32x3'
    options = dict(DILATION=2, NEAREST=17, SLOTS=32, HAS_POSITION=True, SCALE_LATER=dtype == '*bf16')
    build(gpu_search.search_kernel, pointers, G=2, C=40, K=9, **options, **tile)
    build(gpu_search.inverse_length_kernel, dict(nodes_ptr=dtype, out_ptr='*fp32'), G=2, C=40, BLOCK_N=64, BLOCK_C=64)
    pointers = nodes | dict(neighbors_ptr='*i64', out_ptr=dtype, winner_ptr='*i32')
    build(kernels.max_relative_kernel, pointers, G=2, C=40, K=9, KEEP_WINNER=True, BLOCK_N=16, BLOCK_C=64)
    pointers = dict(grad_ptr=dtype, winner_ptr='*i32', out_ptr='*fp32')
    build(kernels.scatter_add_kernel, pointers, C=80, BLOCK_N=8, BLOCK_C=128)
"""


def test_kernels_build_for_a_gpu(tmp_path):
    """For the H100 and H200, with the assembler that Triton brings: the interpreter takes what a compiler does not."""
    pytest.importorskip('triton', minversion=TRITON)
    out = run_python('-c', BUILD, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET='0')
    assert len(out.splitlines()) == 8


def test_import_without_triton():
    """Triton is not part of PyTorch on every system, and is not loaded before it is needed."""
    run_python(
        '-c',
        "import sys; sys.modules['triton'] = None; import gkgnet_timm, timm, torch\n"
        "assert 'gkgnet_timm.graph.gpu_kernels' not in sys.modules\n"
        'from gkgnet_timm.graph import gpu\n'
        'assert not gpu._usable\n'
        "model = timm.create_model('gkgnet_ti_224', img_size=32, dims=(8, 16, 24, 32))\n"
        'model(torch.zeros(2, 3, 32, 32)).sum().backward()\n'
        "assert 'gkgnet_timm.graph.gpu_kernels' not in sys.modules\n",
    )


@pytest.mark.parametrize('dtypes', [(torch.float32,) * 2, (torch.float64,) * 2, (torch.bfloat16, torch.float32)])
def test_operators_on_a_cpu_are_the_eager_functions(dtypes, monkeypatch, caplog):
    """The kernels of a GPU are not looked at."""
    monkeypatch.setattr(gpu, '_launch', None)
    x, y, neighbors = aggregation(2, 12, 12, 16, 2, 5)
    x, y = (t.to(d).requires_grad_() for t, d in zip((x, y), dtypes))
    tables = relative_position_tables(3, 4, 16, 1)
    found = torch.ops.gkgnet_timm.knn_neighbors(x.detach(), y.detach(), 5, 2, 2, *tables)
    assert torch.equal(found, eager.search_neighbors(x, y, 5, 2, 2, tables))
    assert torch.equal(found, knn_neighbors(x, y, 5, 2, 2, tables))
    weight = nodes(2, 12, 32, seed=2)
    results = []
    aggregate = torch.ops.gkgnet_timm.interleave_max_relative
    for out in (aggregate(x, y, neighbors, True)[0], eager.interleave_max_relative(x, y, neighbors, True)[0]):
        results.append((out.detach(), *torch.autograd.grad(out, (x, y), weight.to(out.dtype))))
    for actual, expected in zip(*results):
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected)
    assert not caplog.records


@pytest.mark.parametrize('with_position', [True, False])
def test_search_operator_is_registered_well(with_position):
    tables = relative_position_tables(3, 4, 16, 1) if with_position else (None, None)
    x = nodes(2, 12, 16, dtype=torch.float32)
    torch.library.opcheck(torch.ops.gkgnet_timm.knn_neighbors, (x, x.clone(), 5, 2, 2, *tables))


@pytest.mark.parametrize('dtypes', [(torch.float32,) * 2, (torch.float16, torch.float32)])
@pytest.mark.parametrize('wanted', ['xy', 'x', 'y', ''])
def test_aggregation_operator_is_registered_well(dtypes, wanted):
    x, y, neighbors = aggregation(2, 6, 9, 8, 2, 3)
    x, y = x.to(dtypes[0]).requires_grad_('x' in wanted), y.to(dtypes[1]).requires_grad_('y' in wanted)
    torch.library.opcheck(torch.ops.gkgnet_timm.interleave_max_relative, (x, y, neighbors, 'y' in wanted))
    winner = torch.randint(9, (2, 6, 8), dtype=torch.int32)
    torch.library.opcheck(torch.ops.gkgnet_timm.scatter_to_winners, (x.detach(), winner, 9))


def test_gradient_without_winners_is_an_error():
    x, y, neighbors = aggregation(1, 4, 5, 8, 2, 3)
    with pytest.raises(RuntimeError, match='keep_winner=True'):
        torch.ops.gkgnet_timm.interleave_max_relative(x, y.requires_grad_(), neighbors, False)


@pytest.mark.parametrize('missing', [False, True])
def test_failing_kernels_warn_once(missing, monkeypatch, caplog):
    """Triton has no CPU kernels, which is as good a reason as any."""
    if missing:
        monkeypatch.setitem(sys.modules, 'gkgnet_timm.graph.gpu_kernels', None)
        monkeypatch.delattr('gkgnet_timm.graph.gpu_kernels', raising=False)
    else:
        pytest.importorskip('triton')
    x, y, neighbors = aggregation(2, 12, 20, 16, 2, 5, torch.float32)
    expected = (
        eager.search_neighbors(x, y, 5, 2, 2, None),
        *eager.interleave_max_relative(x, y, neighbors, True),
        eager.scatter_to_winners(x, torch.zeros_like(x, dtype=torch.int32), 20),
    )
    monkeypatch.setattr(gpu, '_usable', True)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            actual = (
                gpu.search(x, y, 5, 2, 2, None, None),
                *gpu.aggregate(x, y, neighbors, True),
                gpu.scatter(x, torch.zeros_like(x, dtype=torch.int32), 20),
            )
            assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    (record,) = caplog.records
    assert record.name == 'gkgnet_timm.graph.gpu' and record.levelno == logging.WARNING
    assert 'GPU kernels are not used' in record.getMessage() and 'Error' in record.getMessage()
    assert not gpu._usable


def test_out_of_memory_is_not_a_failing_kernel(monkeypatch):
    kernels = type(sys)('gkgnet_timm.graph.gpu_kernels')

    def launch_search(*args):
        raise torch.OutOfMemoryError('full')

    kernels.launch_search = launch_search
    monkeypatch.setitem(sys.modules, 'gkgnet_timm.graph.gpu_kernels', kernels)
    monkeypatch.setattr('gkgnet_timm.graph.gpu_kernels', kernels, raising=False)
    monkeypatch.setattr(gpu, '_usable', True)
    x = nodes(1, 4, 8, dtype=torch.float32)
    with pytest.raises(torch.OutOfMemoryError):
        gpu.search(x, x, 2, 1, 1, None, None)
    assert gpu._usable


def test_scripted_functions_know_no_operator_of_ours():
    x, y, neighbors = aggregation(2, 12, 20, 16, 2, 5, torch.float32)
    search, aggregate = torch.jit.script(knn_neighbors), torch.jit.script(interleave_max_relative)
    assert 'gkgnet_timm::' not in str(search.inlined_graph) + str(aggregate.inlined_graph)
    assert torch.equal(search(x, y, 5, 2, 2), knn_neighbors(x, y, 5, 2, 2))
    assert torch.equal(aggregate(x, y, neighbors), interleave_max_relative(x, y, neighbors))
    gradients = [
        torch.autograd.grad(operation(x, y.requires_grad_(), neighbors).square().sum(), y)[0]
        for operation in (aggregate, interleave_max_relative)
    ]
    torch.testing.assert_close(*gradients)
