# SPDX-License-Identifier: Apache-2.0
"""docs/monitoring asks a daemon only for what it tells, and leads to help that is there."""

import contextlib
import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import msgspec
import pytest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from callsd.v1.error_pb2 import ErrorReason
from callsd.v1.job_pb2 import JOB_STATE_RUNNING
from callsd_daemon import metrics
from tests.conftest import StartDaemon
from tests.docs.test_runbook import RUNBOOK, anchors
from tests.helpers.daemon import ROOT
from tests.helpers.ports import free_port
from tests.helpers.waiting import eventually


MONITORING = ROOT / "docs" / "monitoring"
RULES = MONITORING / "callsd.rules.yaml"
DASHBOARD = MONITORING / "callsd.dashboard.json"

RUNBOOK_URL = "https://github.com/callsd/callsd/blob/main/docs/runbook.md#"
REASON = "{{ $labels.reason | toLower }}"

FUNCTIONS = {
    *("absent", "changes", "clamp_min", "deriv", "histogram_quantile", "increase"),
    *("min_over_time", "predict_linear", "rate", "sum", "time"),
}
OPERATORS = {"and", "or", "unless", "offset"}
TARGET_LABELS = {"instance", "job"}
"""What Prometheus itself gives every figure of a target."""

SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
}

STRING = re.compile(r'"[^"]*"')
RANGE = re.compile(r"\[[^\]]*\]")
GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
SELECTOR = re.compile(r"(\w+)\s*\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
NAME = re.compile(r"(?<![\w.$])[a-zA-Z_:][\w:]*")
NAMED = re.compile(r"`(callsd_[a-z_]+)")


class Rule(msgspec.Struct, forbid_unknown_fields=True, rename={"for_": "for"}):
    """An alert."""

    alert: str
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]
    for_: str = ""


class Group(msgspec.Struct, forbid_unknown_fields=True):
    """Alerts that are judged together."""

    name: str
    rules: list[Rule]


class RuleFile(msgspec.Struct, forbid_unknown_fields=True):
    """What Prometheus reads."""

    groups: list[Group]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What a daemon tells: names of all figures, and those that have values, with labels."""

    names: set[str]
    samples: list[tuple[str, dict[str, str]]]


def rules() -> list[Rule]:
    """All alerts."""
    file = msgspec.yaml.decode(RULES.read_bytes(), type=RuleFile)
    return [rule for group in file.groups for rule in group.rules]


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return found


def panels() -> list[dict[str, Any]]:
    """Its panels, rows left out."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """Every expression, by the alert or panel that has it."""
    asked = {rule.alert: rule.expr for rule in rules()}
    asked |= {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }
    return asked | {"variable": "callsd_jobs_queued"}


def names(query: str) -> set[str]:
    """The figures that an expression asks for."""
    bare = GROUPING.sub("", RANGE.sub("", STRING.sub("", query)))
    bare = re.sub(r"\{[^}]*\}", "", bare)
    return set(NAME.findall(bare)) - FUNCTIONS - OPERATORS


def labels_of(name: str) -> set[str]:
    """The labels of one of our figures."""
    own = {
        sample: set(metric._labelnames) | ({"le"} if suffix == "_bucket" else set())
        for metric in vars(metrics).values()
        if isinstance(metric, MetricWrapperBase)
        for suffix in SUFFIXES[str(metric._type)]
        for sample in (metric._name + suffix,)
    }
    return own.get(name, set()) | TARGET_LABELS


def scrape(port: int) -> Exported:
    """What Prometheus would see now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return Exported(
        names={
            family.name + suffix for family in families for suffix in SUFFIXES.get(family.type, ())
        },
        samples=[(sample.name, sample.labels) for family in families for sample in family.samples],
    )


@pytest.fixture(scope="module")
def exported(shared_daemon: StartDaemon) -> Exported:
    """What a real daemon tells that has succeeded, failed, refused and lost something."""
    port = free_port()
    one = shared_daemon(config={"metrics": {"listen": f"127.0.0.1:{port}"}})
    api = one.api()
    one.wait(api, one.create(api).job.name)
    one.wait(api, one.create(api, "fail INPUT_INVALID").job.name)
    one.wait(api, one.create(api, "1: exit 1").job.name)
    for _ in range(3):
        one.wait(api, one.create(api, "sleep").job.name, JOB_STATE_RUNNING)
    with contextlib.suppress(grpc.RpcError):
        one.create(api, no_queue=True)

    def look() -> Exported | None:
        found = scrape(port)
        # It counts what there is once a second, and recordings last.
        return found if ("callsd_recordings", {"picture": "blank"}) in found.samples else None

    found = eventually(look, "the daemon has counted what there is")
    assert found is not None
    return found


class TestMetrics:
    """What is asked for."""

    @pytest.mark.parametrize(("where", "query"), queries().items(), ids=queries())
    def test_exported(self, exported: Exported, where: str, query: str) -> None:
        """Each figure that an alert or a panel asks for is one that a real daemon exports."""
        asked = names(query)

        assert asked, where
        assert asked - exported.names == set()

    @pytest.mark.parametrize(("where", "query"), queries().items(), ids=queries())
    def test_labels(self, exported: Exported, where: str, query: str) -> None:
        """Each label is one that the figure has, each value one that a real daemon has told."""
        grouped = {label.strip() for found in GROUPING.findall(query) for label in found.split(",")}
        known = set().union(*(labels_of(name) for name in names(query)))
        assert grouped - known == set(), where

        for name, matchers in SELECTOR.findall(query):
            for label, operator, value in MATCHER.findall(matchers):
                assert label in labels_of(name), f"{where}: {name} has no {label}"
                if operator == "=" and label not in TARGET_LABELS:
                    told = {found.get(label) for one, found in exported.samples if one == name}
                    assert value in told, f"{where}: {name} never has {label}={value}"

    def test_a_wrong_name_is_found(self) -> None:
        """The check itself tells figures from functions, labels, numbers and ranges."""
        query = 'sum by (kind, le) (rate(callsd_x{a="callsd_y"}[5m] offset 1h)) > 2e9 or on (b) z'

        assert names(query) == {"callsd_x", "z"}
        assert labels_of("callsd_rpc_seconds_bucket") == {"method", "code", "le", *TARGET_LABELS}

    def test_handbook(self, exported: Exported) -> None:
        """Each figure that the handbook names, by its name or its beginning, is exported."""
        pages = (RUNBOOK, MONITORING / "README.md", ROOT / "docs" / "operate.md")
        named = {name for page in pages for name in NAMED.findall(page.read_text("utf-8"))}

        assert len(named) > 10
        assert {
            name
            for name in named
            if not any(one == name or one.startswith(f"{name}_") for one in exported.names)
        } == set()

    def test_every_figure_is_shown(self, exported: Exported) -> None:
        """No figure of ours is left out of alerts and dashboard but when each began to count."""
        shown = {_family(name) for query in queries().values() for name in names(query)}
        ours = {_family(name) for name in exported.names if name.startswith("callsd_")}

        assert {name for name in ours - shown if not name.endswith("_created")} == set()


class TestRules:
    """The alerts."""

    def test_readable(self) -> None:
        """The file is what Prometheus reads, and no name stands for two alerts."""
        found = [rule.alert for rule in rules()]

        assert len(found) > 10
        assert len(found) == len(set(found))

    @pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.alert)
    def test_alert(self, rule: Rule) -> None:
        """An alert has a name of ours, a severity, a summary in a sentence, and waits in units."""
        assert rule.alert.startswith("Callsd")
        assert rule.labels in ({"severity": "critical"}, {"severity": "warning"})
        assert set(rule.annotations) == {"summary", "runbook_url"}
        assert rule.annotations["summary"].endswith(".")
        assert re.fullmatch(r"(\d+[mh])?", rule.for_)
        assert rule.expr.count("(") == rule.expr.count(")")

    @pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.alert)
    def test_runbook(self, rule: Rule) -> None:
        """Its link leads to a heading of the runbook, whatever reason stands in it."""
        url = rule.annotations["runbook_url"]
        reasons = [name.removeprefix("ERROR_REASON_").lower() for name in ErrorReason.keys()[1:]]
        leads_to = {url.removeprefix(RUNBOOK_URL).replace(REASON, reason) for reason in reasons}

        assert url.startswith(RUNBOOK_URL)
        assert leads_to - anchors(RUNBOOK) == set()

    def test_handbook(self) -> None:
        """README.md names each alert with its severity, and no other."""
        text = (MONITORING / "README.md").read_text(encoding="utf-8")
        listed = {
            (name, severity)
            for cells, severity in re.findall(r"^\| (`Callsd.*?) \| (\w+) \|", text, re.MULTILINE)
            for name in re.findall(r"`(\w+)`", cells)
        }

        assert listed == {(rule.alert, rule.labels["severity"]) for rule in rules()}


class TestDashboard:
    """The dashboard."""

    def test_names_nobodys_data_source(self) -> None:
        """Each panel, query and variable asks the data source that the user chooses."""
        variables = dashboard()["templating"]["list"]
        assert [(one["name"], one["type"]) for one in variables] == [
            ("datasource", "datasource"),
            ("instance", "query"),
        ]

        asks = [*panels(), *(target for panel in panels() for target in panel["targets"])]
        sources = [one["datasource"] for one in [*asks, variables[1]]]
        assert all(one == {"type": "prometheus", "uid": "${datasource}"} for one in sources)

    def test_panels_are_told_apart(self) -> None:
        """Ids and titles are unique, each panel says what it shows, and none covers another."""
        everything = dashboard()["panels"]
        cells = [cell for panel in everything for cell in _cells(panel["gridPos"])]

        assert len({panel["id"] for panel in everything}) == len(everything)
        assert len({panel["title"] for panel in everything}) == len(everything)
        assert [panel["title"] for panel in panels() if not panel["description"]] == []
        assert {panel["type"] for panel in panels()} == {"stat", "timeseries"}
        assert len(set(cells)) == len(cells)
        assert max(x for x, _ in cells) == 23

    def test_for_grafana_10(self) -> None:
        """Its schema is one that Grafana 10 reads; what an installation gives it is left out."""
        found = dashboard()

        assert 36 <= found["schemaVersion"] <= 38
        assert "id" not in found
        assert found["uid"] == "callsd"


def _family(name: str) -> str:
    """What the parts of a histogram have in common."""
    return re.sub("_(bucket|sum|count)$", "", name)


def _cells(position: dict[str, int]) -> Iterator[tuple[int, int]]:
    """The places of the grid that a panel takes."""
    for x in range(position["x"], position["x"] + position["w"]):
        for y in range(position["y"], position["y"] + position["h"]):
            yield x, y
