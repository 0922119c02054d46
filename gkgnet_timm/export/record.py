"""Record a model as a file: a program of torch.export, or a graph of ONNX."""

import logging
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional

import torch

from ..inference.program import missing_extra
from ..runtime import UserError, one_line
from .outputs import Outputs, Sizes

__all__ = ['record_onnx', 'record_pt2']

ONE_FILE = 1.9e9  # bytes of weights that fit into a file of ONNX with what else is in it


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Run an exporter of PyTorch without its log, and say in a sentence what it cannot do."""
    logger = logging.getLogger('torch')
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')
            yield
    except UserError:
        raise
    except ImportError as error:
        raise missing_extra(error) from error
    except Exception as error:  # whatever models and exporters raise for operations that they do not have
        while error.__cause__ is not None:  # the first one says what it is
            error = error.__cause__
        raise ValueError(f'The model cannot be exported to {what}: {one_line(error)}') from error
    finally:
        logger.setLevel(level)


def record_pt2(outputs: Outputs, path: Path, images: torch.Tensor, sizes: Sizes) -> None:
    """Write a program that `torch.export.load` reads, with a mapping of outputs by name.

    Raises:
        ValueError: If the model cannot be exported so.
    """
    with _refusing('pt2'):
        program = torch.export.export(outputs, (images,), dynamic_shapes=(sizes,), strict=False)
        torch.export.save(program, path)


def record_onnx(
    outputs: Outputs, path: Path, images: torch.Tensor, sizes: Sizes, opset: Optional[int], neighbors: Optional[Path]
) -> None:
    """Write a graph of ONNX with the input `input`.

    Args:
        outputs: The model.
        path: File of the graph, without neighbours.
        images: Images to record it with.
        sizes: Dimensions that stay open.
        opset: Version of ONNX's operators, None for PyTorch's default.
        neighbors: File of the graph with neighbours, None for a model without any.

    Raises:
        UserError: If packages of the extra `onnx` are missing.
        ValueError: If the model cannot be exported so.
    """
    with _refusing('onnx'):
        import onnx_ir.passes.common as passes

        names = ['prediction', 'logits', 'embedding', *(['neighbors'] if outputs.has_neighbors else [])]
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
        for node in program.model.graph.all_nodes():
            for value in node.outputs:
                if value.name in names and not value.is_graph_output():
                    value.name += '_inside'  # PyTorch names results of its own operators so, too
        weights = sum(tensor.nbytes for tensor in (*outputs.parameters(), *outputs.buffers()))
        options = dict(external_data=weights > ONE_FILE)
        if neighbors:
            program.save(neighbors, **options)
            del program.model.graph.outputs[names.index('neighbors')]
            passes.RemoveUnusedNodesPass()(program.model)
        program.save(path, **options)
