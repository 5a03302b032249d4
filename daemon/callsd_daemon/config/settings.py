# SPDX-License-Identifier: Apache-2.0
"""Every setting, its type, its default and what it means."""

import msgspec


class ConfigError(Exception):
    """The configuration cannot be used; the message names the key and says what to do."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: an unknown key is an error."""


class State(Section, frozen=True):
    """Where things are kept."""

    directory: str = ""
    runtime_directory: str = ""


class Server(Section, frozen=True):
    """How clients reach the daemon."""

    listen: tuple[str, ...] = ()
    socket_group: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    max_watches: int = 2000
    drain_seconds: float = 30.0
    drain_live_seconds: float = 0.0


class Media(Section, frozen=True):
    """Where jobs may read from."""

    roots: tuple[str, ...] = ()
    max_upload_bytes: int = 4 * 1024**3
    max_client_upload_bytes: int = 64 * 1024**3
    max_client_uploads: int = 10_000
    upload_retention_seconds: float = 86400.0


class Jobs(Section, frozen=True):
    """Life and limits of jobs."""

    max_concurrent_jobs: int = 0
    max_transcription_jobs: int = 0
    max_captions_jobs: int = 0
    max_recording_jobs: int = 0
    max_queued_jobs: int = 1000
    queue_patience_seconds: float = 30.0
    max_duration_seconds: float = 86400.0
    max_attempts: int = 3
    retention_seconds: float = 30 * 86400.0
    max_log_bytes: int = 16 * 1024**2
    start_timeout_seconds: float = 30.0
    silence_timeout_seconds: float = 60.0
    stop_grace_seconds: float = 10.0


class Admission(Section, frozen=True):
    """What is kept free."""

    headroom_cores: float = -1.0
    headroom_memory_bytes: int = 512 * 1024**2
    headroom_disk_bytes: int = 1024**3
    enforced: bool = True


class Models(Section, frozen=True):
    """Speech models."""

    directory: str = ""


class Transcription(Section, frozen=True):
    """Defaults of transcriptions."""

    model: str = "base"
    threads: int = 1
    max_threads: int = 0
    engine: str = "auto"


class Captions(Section, frozen=True):
    """Live captions."""

    model: str = "base"
    workers: int = 0
    fallback_model: str = ""
    abandoned_seconds: float = 600.0


class Recording(Section, frozen=True):
    """Recordings of pages."""

    profile: str = "medium"
    max_duration_seconds: float = 4 * 3600.0
    stop_grace_seconds: float = 300.0


class Gateway(Section, frozen=True):
    """The HTTP gateway for Mattermost's Calls plugin."""

    listen: str = ""
    allow_plaintext: bool = False
    self_registration: bool = False
    admin_key: str = ""
    busy_status: int = 503
    ca_file: str = ""
    delivery_seconds: float = 7 * 86400.0


class Workers(Section, frozen=True):
    """How workers are started."""

    launcher: str = "process"
    listen: str = ""


class Metrics(Section, frozen=True):
    """Prometheus."""

    listen: str = ""


class Log(Section, frozen=True):
    """The daemon's own log."""

    level: str = "info"
    format: str = "auto"


class Config(Section, frozen=True):
    """Everything that can be set."""

    state: State = State()
    server: Server = Server()
    media: Media = Media()
    jobs: Jobs = Jobs()
    admission: Admission = Admission()
    models: Models = Models()
    transcription: Transcription = Transcription()
    captions: Captions = Captions()
    recording: Recording = Recording()
    gateway: Gateway = Gateway()
    workers: Workers = Workers()
    metrics: Metrics = Metrics()
    log: Log = Log()


SETTINGS: dict[str, str] = {
    "state.directory": "Jobs, their files and the database. Default: /var/lib/callsd for root, "
    "otherwise ~/.local/state/callsd.",
    "state.runtime_directory": "Sockets and the owner's token. Default: /run/callsd for root, "
    "otherwise $XDG_RUNTIME_DIR/callsd.",
    "server.listen": 'Endpoints: "unix:/path" or "tcp:HOST:PORT". Beyond loopback, TCP needs TLS. '
    "Default: callsd.sock in the runtime directory.",
    "server.socket_group": "Group that may use the unix socket. Default: the daemon's own.",
    "server.tls_certificate": 'PEM file, or "credential:NAME" for a systemd credential.',
    "server.tls_key": 'PEM file, or "credential:NAME".',
    "server.tls_client_ca": "PEM file; clients must then show a certificate signed by it.",
    "server.max_watches": "Streams that may be open at once.",
    "server.drain_seconds": "On shutdown: how long open streams may take to end.",
    "server.drain_live_seconds": "On shutdown: how long to wait for recordings, captures and "
    "captions to end by themselves, while no new work is taken. 0 = they go on without the daemon, "
    "and the next one takes them up.",
    "media.roots": "Directories from which jobs may read files by path. Default: none, "
    "clients upload.",
    "media.max_upload_bytes": "Largest upload.",
    "media.max_client_upload_bytes": "Size of all uploads that one client may keep here, complete "
    "or not. A client is a token.",
    "media.max_client_uploads": "How many uploads one client may keep here.",
    "media.upload_retention_seconds": "How long an upload that no job needs is kept.",
    "jobs.max_concurrent_jobs": "Ceiling on running jobs. 0 = none: admission knows what fits.",
    "jobs.max_transcription_jobs": "Ceiling on running transcriptions. 0 = none.",
    "jobs.max_captions_jobs": "Ceiling on captions jobs that run at once; captures do not count. "
    "0 = none.",
    "jobs.max_recording_jobs": "Ceiling on recordings that run at once. 0 = none.",
    "jobs.max_queued_jobs": "How many jobs may wait.",
    "jobs.queue_patience_seconds": "How long the processor load of other programs may hold a "
    "waiting transcription back; it gives way to them anyway.",
    "jobs.max_duration_seconds": "Longest run of a job that sets no `max_duration` of its own.",
    "jobs.max_attempts": "How many workers a job may have, one after another, when they die.",
    "jobs.retention_seconds": "How long a finished job and its files are kept. 0 = until deleted.",
    "jobs.max_log_bytes": "Longest log of a job; a longer one loses its beginning.",
    "jobs.start_timeout_seconds": "How long a worker may take to report to the daemon.",
    "jobs.silence_timeout_seconds": "A worker that reports nothing for so long is killed.",
    "jobs.stop_grace_seconds": "How long a worker may take to end when asked; for recordings and "
    "captures see recording.stop_grace_seconds.",
    "admission.headroom_cores": "Cores kept free for everything else. -1 = a tenth of them, none "
    "on a single core.",
    "admission.headroom_memory_bytes": "Memory kept free.",
    "admission.headroom_disk_bytes": "Disk space kept free; below it nothing is accepted.",
    "admission.enforced": "false = only the ceilings in [jobs] hold, whatever the machine can "
    "carry. For measuring that.",
    "models.directory": "Where models lie. Default: models in the state directory.",
    "transcription.model": "Model of jobs that name none, and in place of one that Mattermost's "
    "plugin names and is not here.",
    "transcription.threads": "Threads of jobs that do not say.",
    "transcription.max_threads": "Most threads of one job. 0 = the cores less those kept free.",
    "transcription.engine": 'Engine of jobs that do not say: "auto", "ctranslate2", '
    '"whispercpp" or "onnx".',
    "captions.model": "Model of captions that name none, and in place of one that Mattermost's "
    "plugin names and is not here.",
    "captions.workers": "Windows of audio that one model recognises in parallel, a thread each. "
    "0 = as many as there are cores.",
    "captions.fallback_model": "Smaller model for the words that may still change, while captions "
    "fall behind. Empty = none.",
    "captions.abandoned_seconds": "A captions job ends when nobody has been connected to send "
    "sound for so long.",
    "recording.profile": 'Quality of recordings that name none: "low", "medium" or "high".',
    "recording.max_duration_seconds": "Longest recording or capture when its job does not say; "
    "disk space is set aside for all of it.",
    "recording.stop_grace_seconds": "How long a recording or capture that is asked to end may take "
    "to put its files together.",
    "gateway.listen": 'HTTP endpoint for Mattermost\'s Calls plugin, such as "0.0.0.0:4545"; with '
    "server.tls_certificate it is HTTPS. Empty = off.",
    "gateway.allow_plaintext": "Other machines may use the gateway without TLS: whoever is in "
    "between can then read their keys and the bot's token.",
    "gateway.self_registration": "Whoever comes with a name that is not known yet, and a key of 32 "
    "characters or more, is let in, and the key is theirs from then on.",
    "gateway.admin_key": 'File with the key that may do all at the gateway, or "credential:NAME". '
    "Empty = none.",
    "gateway.busy_status": "HTTP status of a refusal for lack of capacity: 503, by which a proxy "
    "tries another machine, or 500.",
    "gateway.ca_file": "PEM file with certificates of sites to trust, besides the system's.",
    "gateway.delivery_seconds": "How long it is tried to bring a file to its call's thread; the "
    "file stays here after that.",
    "workers.launcher": '"process" = children of the daemon; "systemd" = units of their own, which '
    "outlive it and are held to limits, as `callsd install` sets them up.",
    "workers.listen": 'Where workers dial that share no disk with the daemon, "HOST:PORT"; needs '
    "server.tls_certificate. Empty = nowhere: workers run on this machine.",
    "metrics.listen": 'Prometheus endpoint, such as "127.0.0.1:9464". Empty = off.',
    "log.level": '"debug", "info", "warning" or "error".',
    "log.format": '"json", "console", or "auto": console on a terminal.',
}
