"""Check that a machine computes correctly, and describe it for an issue."""

import sys
from typing import Any, Dict, List, Optional

from ..inference.device import check_device
from ..selftest.finding import FAIL, Finding, overall
from ..selftest.machine import describe
from ..selftest.report import issue_text, machine_lines, table, write_json
from ..selftest.run import selftest
from ..selftest.speed import TIMED, measure_at_length
from .flags.checks import check_outputs
from .flags.selftest import create_parser

__all__ = ['main']


def main(argv: Optional[List[str]] = None) -> None:
    """Run the self-test and print what it finds, at once and as a text for an issue.

    Raises:
        ValueError: If there is no such device, or its speed cannot be measured.
        OSError: If the file cannot be written.
        SystemExit: With status 1 if a check fails.
    """
    args = create_parser().parse_args(argv)
    check_outputs(args, ['json'])
    device = check_device(args.device)
    if args.speed and device.type not in TIMED:
        raise ValueError(f'--speed is for {" and ".join(TIMED)}, not for --device {device.type}.')
    machine = describe(device)
    print(*machine_lines(machine), '', sep='\n')
    findings: List[Finding] = []
    for finding in selftest(device):
        print(finding, flush=True)
        findings.append(finding)
    rows: List[Dict[str, Any]] = []
    if args.speed:
        for part in measure_at_length(device):
            print(f'\n{table(part)}', flush=True)
            rows += part
    print('\nFor an issue:\n', issue_text(machine, findings, rows), '', sep='\n')
    print(overall(findings))
    if args.json:
        write_json(args.json, machine, findings, rows)
    if any(finding.verdict == FAIL for finding in findings):
        sys.exit(1)
