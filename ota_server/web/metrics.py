"""What a monitor reads: `/healthz` for a load balancer, `/metrics` for Prometheus.

Counts are kept as boards poll; only the boards' states are asked of the database.
"""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Fleet(Collector):
    def __init__(
        self, answers: Mapping[int, int], stale: int, states: Mapping[str, int], releases: int
    ) -> None:
        self._answers = answers
        self._stale = stale
        self._states = states
        self._releases = releases

    def collect(self) -> Iterable[Metric]:
        answers = CounterMetricFamily(
            "mipy_device_answers", "Answers to boards since the start.", labels=["status"]
        )
        for status, count in sorted(self._answers.items()):
            answers.add_metric([str(status)], count)
        yield answers
        yield CounterMetricFamily(
            "mipy_stale_polls", "Polls that were not counted since the start.", self._stale
        )
        boards = GaugeMetricFamily("mipy_boards", "Boards in use by their state.", labels=["state"])
        for state, count in sorted(self._states.items()):
            boards.add_metric([state], count)
        yield boards
        yield GaugeMetricFamily("mipy_releases", "Releases stored.", self._releases)


def text(answers: Mapping[int, int], stale: int, states: Mapping[str, int], releases: int) -> bytes:
    """All metrics in Prometheus' text format.

    Args:
        answers: to boards, by HTTP status.
        stale: polls without a good ticket.
        states: boards in use by their condition.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fleet(answers, stale, states, releases))
    return generate_latest(registry)
