"""An 8-bit version of a graph of ONNX: of its convolutions and products with weights, not of the neighbour search."""

import tempfile
from pathlib import Path
from typing import Iterator, Optional, Sequence

import torch

from ..runtime import one_line

__all__ = ['quantize']


def quantize(source: Path, target: Path, batches: Sequence[torch.Tensor]) -> None:
    """Write a version whose numbers are scaled as those of some images require.

    Args:
        source: File of the graph in float32.
        target: File to write.
        batches: Normalised images (B, C, H, W).

    Raises:
        ValueError: If onnxruntime cannot quantize the graph.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):
        def __init__(self):
            self.remaining: Iterator[torch.Tensor] = iter(batches)

        def get_next(self) -> Optional[dict]:
            images = next(self.remaining, None)
            return None if images is None else {'input': images.numpy()}

    try:
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder, 'prepared.onnx')
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            graph = onnx.load(prepared, load_external_data=False).graph
            constants = {constant.name for constant in graph.initializer}
            # products of queries and candidates: rounded to 8 bits, most similarities would be equal
            searches = [node.name for node in graph.node if node.op_type == 'MatMul' and not constants & {*node.input}]
            quantize_static(
                str(prepared),
                str(target),
                Batches(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=['Conv', 'Gemm', 'MatMul'],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=searches,
            )
    except Exception as error:  # whatever onnxruntime raises for operators that it does not expect
        raise ValueError(f'The graph cannot be quantized to 8 bits: {one_line(error)}') from error
