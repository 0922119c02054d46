"""Label images on a page in the browser, and for other programs."""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from ..data import Decoder
from ..inference.device import check_device
from ..inference.precision import choose_amp
from ..runtime import UserError
from ..weights.content import reading_once
from ..weights.file import TrainedWith
from .flags.serve import create_parser
from .selected import READING_OPTIONS, load_labelled, parse_over_checkpoint, select_threshold

PACKAGES = ('fastapi', 'uvicorn', 'python_multipart')


def main(argv: Optional[List[str]] = None) -> None:
    """Serve the model of the flags until Ctrl-C."""
    if missing := [name for name in PACKAGES if not find_spec(name)]:
        raise UserError(f"serve needs the package {missing[0]}: pip install 'gkgnet-timm[serve]'.")
    from ..serving import server

    with reading_once():
        # in bfloat16, scores would depend on who else asks: not unless it is asked for here
        args, trained = parse_over_checkpoint(create_parser(), argv, amp=None)
        reading = {name: getattr(args, name) for name in READING_OPTIONS}
        Decoder(**reading)  # checks its arguments
        address = server.bind(args.host, args.port)  # before the model is loaded, which takes seconds
        app = _in_a_thread(lambda: _create_app(args, trained, reading))
    server.run(app, address)


def _in_a_thread(create: Callable[[], Any]) -> Any:
    """Run a function in a thread that ends with it.

    PyTorch keeps helping threads for each thread that computes. If this one, which will only listen, had some, there
    would be more of them than cores, and an image took 2.6 times as long on two cores.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(copy_context().run, create).result()


def _create_app(args: argparse.Namespace, trained: Optional[TrainedWith], reading: Dict[str, Any]) -> Any:
    from ..serving import server

    model, names = load_labelled(args, trained)
    for difference in Decoder(**reading).for_model(model.pretrained_cfg).differences():
        print(f'Warning: {difference}.', file=sys.stderr)
    return server.create_server(
        model,
        names,
        select_threshold(args, model, names),
        **reading,
        name=args.model or model.pretrained_cfg.get('architecture') or Path(args.checkpoint).name,
        device=args.device,
        amp=choose_amp(args.amp, args.amp_dtype, check_device(args.device)),
        amp_dtype=args.amp_dtype,
        channels_last=args.channels_last,
        max_upload=int(args.max_upload_mb * 1e6),
        queue=args.queue,
        batch_size=args.batch_size,
    )
