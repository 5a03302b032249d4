# SPDX-License-Identifier: Apache-2.0
"""`callsd models`."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from callsd.v1.model_pb2 import Model, ModelState, PullModelResponse
from callsd.v1.transcription_pb2 import SpeechEngine
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.exit import Exit, Problem
from callsd_daemon.cli.shared.output import (
    ago,
    as_dict,
    json_line,
    print_json,
    print_table,
    size,
    word,
)
from callsd_daemon.cli.shared.progress import PullDisplay
from callsd_daemon.models.errors import ModelError
from callsd_daemon.models.pull import PullProgress
from callsd_daemon.models.pull import pull as pull_here
from callsd_daemon.models.pull import verify as verify_here
from callsd_daemon.models.store import ModelStatus, ModelStore
from callsd_daemon.models.tool import ToolRequest, run_tool


SOURCES = ("hub", "index")

models_dir_option = click.option(
    "--models-dir",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Work on this directory, without a daemon.",
)


@click.group()
def models() -> None:
    """List, fetch and check speech models.

    These commands ask the daemon, which must be running; with --models-dir they work on a
    directory themselves.
    """


@models.command("list")
@models_dir_option
@json_option
@pass_cli
def list_models(cli: Cli, *, models_dir: Path | None) -> None:
    """Show the catalogue, and what of it is on the machine."""
    if models_dir is not None:
        with _here():
            found = [_message(status) for status in ModelStore(models_dir).list()]
    else:
        with cli.client() as client:
            found = client.list_models()
    if cli.json:
        print_json([as_dict(model) for model in found])
        return
    rows = [
        (
            model.name,
            word(ModelState.Name(model.state), prefix="MODEL_STATE_"),
            "many" if model.multilingual else "English",
            ", ".join(
                word(SpeechEngine.Name(engine), prefix="SPEECH_ENGINE_") for engine in model.engines
            ),
            size(sum(file.size_bytes for file in model.files)) if model.files else "",
            ago(model.verify_time) if model.HasField("verify_time") else "",
            model.problem,
        )
        for model in found
    ]
    columns = ("MODEL", "STATE", "LANGUAGES", "ENGINES", "SIZE", "VERIFIED", "PROBLEM")
    print_table(columns, rows, right="SIZE")


@models.command()
@click.argument("name")
@click.option(
    "--from",
    "source",
    metavar="hub|index|PATH",
    default="",
    help="Only from there. PATH: a directory with a model, or a GGML file (needs --models-dir).",
)
@models_dir_option
@json_option
@pass_cli
def pull(cli: Cli, *, name: str, source: str, models_dir: Path | None) -> None:
    """Fetch a model, check it against its hashes and try it out."""
    if source and source not in SOURCES and models_dir is None:
        raise click.UsageError(f"--from {source}: a path needs --models-dir")
    last: Model | None = None
    with PullDisplay(name, as_json=cli.json) as display:
        if models_dir is not None:
            with _here():
                last = _message(
                    pull_here(
                        ModelStore(models_dir),
                        name,
                        source=source or "auto",
                        on_progress=lambda progress: display.update(_response(progress)),
                    )
                )
        else:
            with cli.client() as client:
                for response in client.pull_model(name, source=source):
                    display.update(response)
                    last = response.model if response.HasField("model") else last
    if last is None:
        raise Problem(f"the pull of {name} ended without a result", exit_code=Exit.INTERNAL)
    _show_result(last, as_json=cli.json)


@models.command()
@click.argument("name")
@models_dir_option
@json_option
@pass_cli
def verify(cli: Cli, *, name: str, models_dir: Path | None) -> int:
    """Check a model's files against their hashes and transcribe a sample with them."""
    if models_dir is not None:
        with PullDisplay(name, as_json=cli.json) as display, _here():
            found = _message(
                verify_here(
                    ModelStore(models_dir),
                    name,
                    on_progress=lambda progress: display.update(_response(progress)),
                )
            )
    else:
        with cli.client() as client:
            found = client.verify_model(name)
    _show_result(found, as_json=cli.json)
    return Exit.OK if found.state == ModelState.MODEL_STATE_PRESENT else Exit.FAILED


@models.command()
@click.argument("source", metavar="CT2_DIR", type=click.Path(path_type=Path, file_okay=False))
@click.argument("target", metavar="OUT_DIR", type=click.Path(path_type=Path, file_okay=False))
@json_option
@pass_cli
def convert(cli: Cli, *, source: Path, target: Path) -> None:
    """Write the GGML files (for whisper.cpp) of a CTranslate2 model.

    Models that were pulled have them already.
    """
    if not (source / "model.bin").is_file():
        raise Problem(f"{source} holds no model.bin: it is no CTranslate2 model")
    target.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with tempfile.TemporaryDirectory(dir=target, prefix=".convert-") as scratch, _here():
        (Path(scratch) / "ctranslate2").symlink_to(source.resolve(), target_is_directory=True)
        run_tool(ToolRequest(action="convert", directory=scratch), should_stop=lambda: False)
        for made in sorted((Path(scratch) / "ggml").iterdir()):
            shutil.move(made, target / made.name)
            written.append(target / made.name)
    if cli.json:
        print_json([{"path": str(path), "size_bytes": path.stat().st_size} for path in written])
        return
    for path in written:
        click.echo(f"{path}  {size(path.stat().st_size)}")


def _show_result(model: Model, *, as_json: bool) -> None:
    if as_json:
        click.echo(json_line(as_dict(model)))
        return
    state = word(ModelState.Name(model.state), prefix="MODEL_STATE_")
    total = size(sum(file.size_bytes for file in model.files))
    problem = f": {model.problem}" if model.problem else f", {total}, from {model.source}"
    click.echo(f"{model.name} is {state}{problem}")


@contextmanager
def _here() -> Iterator[None]:
    """Turn the model room's errors into ours."""
    try:
        yield
    except ModelError as error:
        codes = {
            "MODEL_UNKNOWN": Exit.NOT_FOUND,
            "MODEL_MISSING": Exit.REFUSED,
            "ENGINE_UNAVAILABLE": Exit.REFUSED,
        }
        reason = error.reason.value
        raise Problem(
            error.message, exit_code=codes.get(reason, Exit.FAILED), reason=reason
        ) from None


def _response(progress: PullProgress) -> PullModelResponse:
    return PullModelResponse(
        phase=progress.phase.value,
        done_bytes=progress.done_bytes,
        total_bytes=progress.total_bytes,
        message=progress.message,
    )


def _message(status: ModelStatus) -> Model:
    """A model of a local directory in the API's words."""
    model = Model(
        name=status.name,
        state=ModelState.Value(f"MODEL_STATE_{status.state.value}"),
        multilingual=status.is_multilingual,
        engines=[SpeechEngine.Value(f"SPEECH_ENGINE_{name.upper()}") for name in status.engines],
        problem=status.problem,
    )
    if status.manifest is not None:
        model.source = status.manifest.source
        model.verify_time.FromNanoseconds(int(status.manifest.verified_unix_seconds * 1e9))
        for record in status.manifest.files:
            model.files.add(path=record.path, size_bytes=record.size_bytes, sha256=record.sha256)
    return model
