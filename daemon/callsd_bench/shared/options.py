# SPDX-License-Identifier: Apache-2.0
"""Options that several benchmarks have."""

from pathlib import Path

import click


ENGINES = ("auto", "ctranslate2", "whispercpp", "onnx")


models_dir_option = click.option(
    "--models-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the models lie; one that is missing is fetched. Default: the daemon's.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object.")
