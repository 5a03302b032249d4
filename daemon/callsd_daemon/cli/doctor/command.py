# SPDX-License-Identifier: Apache-2.0
"""`callsd doctor`."""

from collections.abc import Iterator
from pathlib import Path

import click

from callsd_daemon.cli.doctor.checks import all_findings
from callsd_daemon.cli.doctor.finding import Finding, Status
from callsd_daemon.cli.shared.configuration import loaded
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.exit import Exit
from callsd_daemon.cli.shared.output import print_json
from callsd_daemon.cli.shared.params import FILE


_MARKS = {
    Status.OK: ("✓", "green"),
    Status.ADVICE: ("–", "yellow"),
    Status.PROBLEM: ("✗", "red"),
}


@click.command()
@click.option("--config", "config_file", metavar="FILE", type=FILE, help="The daemon's file.")
@click.option(
    "--mattermost",
    "site_url",
    metavar="URL",
    help="Look only at the way from here to this Mattermost site.",
)
@json_option
@pass_cli
def doctor(cli: Cli, *, config_file: Path | None, site_url: str | None) -> int:
    """Tell what is missing on this machine, and how to get it.

    ✓ is in order, – is worth knowing, ✗ keeps callsd from working: exit code 1.

    With --mattermost: whether recordings of that site's calls can be made and brought back, step
    by step. It takes no daemon and no token, and changes nothing there.
    """
    findings: list[Finding] = []
    for finding in (
        all_findings(cli, config_file)
        if site_url is None
        else _site_findings(site_url, config_file)
    ):
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


def _site_findings(url: str, config_file: Path | None) -> Iterator[Finding]:
    # Loaded when it is needed: it brings an HTTP client.
    from callsd_daemon.cli.doctor.checks_mattermost import check_site

    yield from check_site(url, loaded(config_file).gateway.ca_file)


def _show(finding: Finding) -> None:
    mark, colour = _MARKS[finding.status]
    click.echo(f"{click.style(mark, fg=colour)} {finding.name:<16}  {finding.found}")
    if finding.fix:
        click.echo(f"  {'':<16}  → {finding.fix}")
