"""The self-test as text for an issue, and as data."""

import json
from dataclasses import asdict
from math import isfinite
from typing import Any, Dict, List

from ..benchmark.tables import MODELS, markdown
from ..runtime import replacing
from .finding import FAIL, Finding, overall, without_paths

__all__ = ['issue_text', 'machine_lines', 'table', 'write_json']


def machine_lines(machine: Dict[str, Any]) -> List[str]:
    """The machine in a line for each of its parts."""
    versions = ', '.join(f'{name} {version}' for name, version in machine['versions'].items())
    return [versions, *(f'{name}: {value}' for name, value in machine.items() if name != 'versions')]


def table(rows: List[Dict[str, Any]]) -> str:
    """Rows of the benchmark in Markdown, or why they have no figures."""
    columns = dict(step='', **MODELS)
    done = [dict(row, step='training' if row['is_training'] else 'inference') for row in rows if 'error' not in row]
    failed = (f'{row["model"]}, {row["img_size"]} px, {row["mode"]}: {row["error"]}' for row in rows if 'error' in row)
    return '\n'.join([markdown(done, columns), *(f'\n{without_paths(line)}' for line in failed)])


def issue_text(machine: Dict[str, Any], findings: List[Finding], rows: List[Dict[str, Any]]) -> str:
    """Everything in Markdown, failures first, without names that tell of the user."""
    first = sorted(findings, key=lambda finding: finding.verdict != FAIL)
    lines = [f'**selftest {overall(findings)}**', '', '```text', *machine_lines(machine), '', *map(str, first), '```']
    return '\n'.join([*lines, *(['', table(rows)] if rows else [])])


def write_json(path: str, machine: Dict[str, Any], findings: List[Finding], rows: List[Dict[str, Any]]) -> None:
    """Write the machine, all findings and the rows of the benchmark to a file."""
    rows = [dict(row, error=without_paths(row['error'])) if 'error' in row else row for row in rows]
    found = [asdict(finding) for finding in findings]
    for finding in found:  # JSON has no nan
        finding['figures'] = {
            name: str(figure) if isinstance(figure, float) and not isfinite(figure) else figure
            for name, figure in finding['figures'].items()
        }
    content = dict(
        passed=all(finding.verdict != FAIL for finding in findings), machine=machine, findings=found, rows=rows
    )
    with replacing(path) as file:
        file.write(json.dumps(content, indent=4, allow_nan=False) + '\n')
