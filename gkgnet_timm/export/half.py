"""A version of a graph of ONNX of half the size."""

from pathlib import Path

import numpy as np

from .record import ONE_FILE

__all__ = ['halve']


def halve(source: Path, target: Path) -> None:
    """Write a version whose weights are in half precision. They are computed with in float32, as the search is.

    Maps in half precision as well would choose other neighbours, and lose ten times as much of the mAP.

    Args:
        source: File of the graph in float32.
        target: File to write.

    Raises:
        ValueError: If a weight is too large for half precision.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    used = {name for node in graph.node if node.op_type in ('Conv', 'Gemm', 'MatMul') for name in node.input}
    casts = []
    for constant in graph.initializer:
        if constant.name not in used or constant.data_type != TensorProto.FLOAT or len(constant.dims) < 2:
            continue
        name, half = constant.name, numpy_helper.to_array(constant).astype(np.float16)
        if not np.isfinite(half).all():
            raise ValueError(f'--half: weight {name!r} has numbers too large for half precision.')
        constant.CopyFrom(numpy_helper.from_array(half, f'{name}_half'))
        casts.append(helper.make_node('Cast', [constant.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, target, save_as_external_data=model.ByteSize() > ONE_FILE, location=f'{target.name}.data')
