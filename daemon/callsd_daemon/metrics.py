# SPDX-License-Identifier: Apache-2.0
"""Everything that Prometheus can ask for."""

from prometheus_client import Counter, Gauge, Histogram


DECISIONS = Counter("callsd_admission_decisions", "Admission decisions.", ("decision", "reason"))
JOBS_ENDED = Counter("callsd_jobs_ended", "Jobs that have ended.", ("kind", "state", "reason"))
JOBS_ACTIVE = Gauge("callsd_jobs_active", "Jobs that hold a reservation.", ("kind",))
JOBS_QUEUED = Gauge("callsd_jobs_queued", "Jobs that wait for capacity.")
WORKERS_LOST = Counter("callsd_workers_lost", "Workers that died without a result.", ("reason",))
CAPACITY = Gauge(
    "callsd_capacity", "Resource accounts, in cores or bytes.", ("resource", "account")
)
RPCS = Histogram(
    "callsd_rpc_seconds",
    "Time to answer a request; for streams, how long they lasted.",
    ("method", "code"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0),
)
WATCHES = Gauge(
    "callsd_watches", "Streams that are open: changes, logs, files, captions, capacity."
)
MEDIA_SECONDS = Counter("callsd_media_seconds", "Media worked off by finished jobs.", ("kind",))
EVENT_LOOP_LAG = Histogram(
    "callsd_event_loop_lag_seconds",
    "How late the event loop woke up.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0),
)
CAPTIONERS_LOST = Counter("callsd_captioners_lost", "Captioners that died.", ("model",))
CAPTIONER_LOAD = Gauge(
    "callsd_captioner_load", "Share of the time in which a captioner was busy.", ("model",)
)
CAPTIONER_COMMANDS = Gauge(
    "callsd_captioner_commands", "Pieces of sound and orders that wait for a captioner.", ("model",)
)
CAPTION_LAG = Gauge(
    "callsd_caption_lag_seconds", "Age of the oldest speech that is not captioned.", ("model",)
)
RECORDINGS = Gauge(
    "callsd_recordings", "Recordings that go on, by what their picture looks like.", ("picture",)
)
RECORDINGS_SILENT = Gauge("callsd_recordings_silent", "Recordings in which nothing is heard now.")
RECORDING_DRIFT = Gauge(
    "callsd_recording_drift_seconds", "Furthest that sound has moved against a picture."
)
RECORDING_DISK_FREE = Gauge(
    "callsd_recording_disk_free_bytes", "Space left when the running recordings are put together."
)
CAPTION_VIEWERS = Gauge("callsd_caption_viewers", "Streams of captions that are open.")
DELIVERIES_PENDING = Gauge(
    "callsd_deliveries_pending", "Finished jobs whose files are not yet where they belong."
)
DELIVERIES_OLDEST = Gauge(
    "callsd_deliveries_oldest_seconds", "Time since the first of these jobs has ended."
)
DELIVERIES = Counter("callsd_deliveries", "Deliveries that have ended.", ("state",))
DELIVERED_BYTES = Counter("callsd_delivered_bytes", "Bytes sent to sites, repetitions included.")
