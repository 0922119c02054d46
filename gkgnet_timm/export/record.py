"""Record a model as a file: a program of torch.export, or a graph of ONNX."""

import logging
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional

import torch

from ..inference.program import missing_extra
from ..runtime import one_line
from .outputs import Outputs, Sizes

__all__ = ['check_packages', 'record_onnx', 'record_pt2']

ONE_FILE = 1.9e9  # bytes of weights that fit into a file of ONNX with what else is in it


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Run an exporter of PyTorch without its log, and say in a sentence what it cannot do."""
    loggers = [logging.getLogger(name) for name in ('torch', 'onnxscript', 'onnx_ir')]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')
            yield
    except Exception as error:  # whatever models and exporters raise for operations that they do not have
        while error.__cause__ is not None:  # the first one says what it is
            error = error.__cause__
        raise ValueError(f'The model cannot be exported to {what}: {one_line(error)}') from error
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def record_pt2(outputs: Outputs, path: Path, images: torch.Tensor, sizes: Sizes) -> None:
    """Write a program that `torch.export.load` reads, with a mapping of outputs by name.

    Raises:
        ValueError: If the model cannot be exported so.
    """
    with _refusing('pt2'):
        program = torch.export.export(outputs, (images,), dynamic_shapes=(sizes,), strict=False)
        torch.export.save(program, path)


def check_packages() -> None:
    """Raise a UserError that names the first package of the extra `onnx` that is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_extra(error) from error


def record_onnx(
    outputs: Outputs, path: Path, images: torch.Tensor, sizes: Sizes, opset: Optional[int], proof: Optional[Path] = None
) -> None:
    """Write a graph of ONNX with the input `input`.

    Args:
        outputs: The model.
        path: File of the graph.
        images: Images to record it with.
        sizes: Dimensions that stay open.
        opset: Version of ONNX's operators, None for PyTorch's default.
        proof: File of the same graph with neighbours, which the other one then does not give.

    Raises:
        ValueError: If the model cannot be exported so.
    """
    import onnx_ir.passes.common as passes

    names = ['prediction', 'logits', 'embedding', *(['neighbors'] if outputs.has_neighbors else [])]
    with _refusing('onnx'):
        program = torch.onnx.export(
            outputs,
            (images,),
            dynamo=True,
            dynamic_shapes=(sizes,),
            input_names=['input'],
            output_names=names,
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
        written = program.model.opset_imports['']
        if opset not in (None, written):
            raise ValueError(f'PyTorch writes version {written} of the operators: --opset {opset} is not available')
        for node in program.model.graph.all_nodes():
            for value in node.outputs:
                if value.name in names and not value.is_graph_output():
                    value.name += '_inside'  # PyTorch names results of its own operators so, too
        weights = sum(tensor.nbytes for tensor in (*outputs.parameters(), *outputs.buffers()))
        options = dict(external_data=weights > ONE_FILE)
        if proof:
            program.save(proof, **options)
            del program.model.graph.outputs[names.index('neighbors')]
            passes.RemoveUnusedNodesPass()(program.model)
        program.save(path, **options)
