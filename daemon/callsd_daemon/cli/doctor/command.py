# SPDX-License-Identifier: Apache-2.0
"""`callsd doctor`."""

from pathlib import Path

import click

from callsd_daemon.cli.doctor.checks import all_findings
from callsd_daemon.cli.doctor.finding import Finding, Status
from callsd_daemon.cli.shared.configuration import FILE
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.exit import Exit
from callsd_daemon.cli.shared.output import print_json


_MARKS = {
    Status.OK: ("✓", "green"),
    Status.ADVICE: ("–", "yellow"),
    Status.PROBLEM: ("✗", "red"),
}


@click.command()
@click.option("--config", "config_file", metavar="FILE", type=FILE, help="The daemon's file.")
@json_option
@pass_cli
def doctor(cli: Cli, *, config_file: Path | None) -> int:
    """Tell what is missing on this machine, and how to get it.

    ✓ is in order, – is worth knowing, ✗ keeps callsd from working: exit code 1.
    """
    findings: list[Finding] = []
    for finding in all_findings(cli, config_file):
        findings.append(finding)
        if not cli.json:
            _show(finding)
    problems = sum(finding.status is Status.PROBLEM for finding in findings)
    if cli.json:
        print_json(
            {
                "healthy": problems == 0,
                "checks": [
                    {
                        "name": finding.name,
                        "status": finding.status.value,
                        "found": finding.found,
                        "fix": finding.fix,
                    }
                    for finding in findings
                ],
            }
        )
    else:
        click.echo(f"\n{problems} problem{'s' * (problems != 1)}" if problems else "\nall is well")
    return Exit.FAILED if problems else Exit.OK


def _show(finding: Finding) -> None:
    mark, colour = _MARKS[finding.status]
    click.echo(f"{click.style(mark, fg=colour)} {finding.name:<16}  {finding.found}")
    if finding.fix:
        click.echo(f"  {'':<16}  → {finding.fix}")
