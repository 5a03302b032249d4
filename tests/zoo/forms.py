# SPDX-License-Identifier: Apache-2.0
"""Which codecs are decoded in which containers: `test_zoo.py` tries it, docs/media.md lists it.

The names are those of FFmpeg's muxers and encoders.
"""

from collections import defaultdict


_PCM_LE = "pcm_u8 pcm_s16le pcm_s24le pcm_s32le pcm_f32le pcm_f64le pcm_alaw pcm_mulaw"
_PCM_BE = "pcm_s8 pcm_s16be pcm_s24be pcm_s32be pcm_f32be pcm_f64be pcm_alaw pcm_mulaw"
_COMMON = "libopus libvorbis flac aac libmp3lame mp2 ac3 eac3 dca alac tta wavpack truehd"

FORMS = {
    "wav": f"{_PCM_LE} pcm_s64le adpcm_ima_wav adpcm_ms adpcm_yamaha adpcm_swf g722 g726 g723_1 "
    "libgsm_ms libmp3lame mp2 ac3 dca wmav1 wmav2 flac",
    "w64": f"{_PCM_LE} adpcm_ms libmp3lame",
    "aiff": f"{_PCM_BE} adpcm_ima_qt",
    "au": f"{_PCM_BE}",
    "caf": f"{_PCM_BE} pcm_s16le pcm_f32le alac flac libopus adpcm_ima_qt ac3 libmp3lame",
    "flac": "flac",
    "ogg": "libopus opus libvorbis vorbis flac libspeex",
    "mp4": "aac libmp3lame mp2 ac3 eac3 alac flac libopus libvorbis dca truehd",
    "mov": f"{_PCM_BE} {_PCM_LE} aac alac ac3 libmp3lame adpcm_ima_qt adpcm_ms libgsm",
    "ipod": "aac alac ac3",
    "3gp": "aac",
    "3g2": "aac",
    "f4v": "aac",
    "matroska": f"{_COMMON} {_PCM_LE} pcm_s16be g722 g726 libgsm_ms wmav2 adpcm_ms",
    "webm": "libopus libvorbis",
    "mp3": "libmp3lame",
    "mp2": "mp2 libtwolame",
    "adts": "aac",
    "latm": "aac",
    "ac3": "ac3",
    "eac3": "eac3",
    "dts": "dca",
    "mlp": "mlp",
    "truehd": "truehd",
    "tta": "tta",
    "wv": "wavpack",
    "avi": f"{_PCM_LE} libmp3lame mp2 ac3 aac flac dca wmav2 adpcm_ms adpcm_ima_wav libvorbis g726",
    "asf": "wmav1 wmav2 libmp3lame mp2 ac3 aac pcm_s16le pcm_alaw g726 libspeex",
    "flv": "aac libmp3lame libspeex nellymoser pcm_s16le adpcm_swf",
    "mpegts": "aac libmp3lame mp2 ac3 eac3 dca libopus s302m truehd",
    "vob": "mp2 libmp3lame ac3 dca pcm_dvd pcm_s16be",
    "nut": f"libopus libvorbis aac libmp3lame mp2 ac3 eac3 dca wavpack {_PCM_LE} adpcm_ms g722",
    "rm": "ac3",
    "wtv": "mp2 ac3 libmp3lame",
    "voc": "pcm_u8 pcm_s16le pcm_alaw pcm_mulaw",
    "sox": "pcm_s32le",
    "ircam": "pcm_s16le pcm_f32le pcm_alaw pcm_mulaw",
    "mmf": "adpcm_yamaha",
    "ast": "pcm_s16be_planar",
    "gsm": "libgsm",
    "g722": "g722",
    "g726": "g726",
    "g723_1": "g723_1",
    "alaw": "pcm_alaw",
    "mulaw": "pcm_mulaw",
    "s16le": "pcm_s16le",
    "codec2": "libcodec2",
    "aptx": "aptx",
    "sbc": "sbc",
    "dfpwm": "dfpwm",
}
"""By container. Left out is what FFmpeg writes and cannot read itself, such as AAC in WAV."""

REFUSED = frozenset(
    ("gsm", "g722", "g726", "g723_1", "alaw", "mulaw", "s16le", "codec2", "aptx", "sbc", "dfpwm")
)
"""Samples without a header that says what they are."""

_CONTAINER_NAMES = {
    "wav": "WAV",
    "w64": "Wave64",
    "aiff": "AIFF",
    "au": "AU",
    "caf": "Core Audio",
    "flac": "FLAC",
    "ogg": "Ogg (`.ogg`, `.opus`, `.spx`)",
    "mp4": "MP4",
    "mov": "QuickTime",
    "ipod": "MP4 sound (`.m4a`)",
    "3gp": "3GPP (`.3gp`)",
    "3g2": "3GPP2 (`.3g2`)",
    "f4v": "Flash MP4 (`.f4v`)",
    "matroska": "Matroska (`.mkv`, `.mka`)",
    "webm": "WebM",
    "mp3": "MP3",
    "mp2": "MP2",
    "adts": "AAC (`.aac`)",
    "latm": "AAC in LATM",
    "ac3": "AC-3",
    "eac3": "E-AC-3",
    "dts": "DTS",
    "mlp": "MLP",
    "truehd": "TrueHD",
    "tta": "True Audio",
    "wv": "WavPack",
    "avi": "AVI",
    "asf": "ASF (`.wma`, `.wmv`)",
    "flv": "Flash video (`.flv`)",
    "mpegts": "MPEG-TS",
    "vob": "MPEG-PS (`.mpg`, `.vob`)",
    "nut": "NUT",
    "rm": "RealMedia",
    "wtv": "WTV",
    "voc": "Creative Voice",
    "sox": "SoX",
    "ircam": "IRCAM",
    "mmf": "Yamaha SMAF (`.mmf`)",
    "ast": "AST",
}

_CODEC_NAMES = {
    "aac": "AAC",
    "ac3": "AC-3",
    "alac": "ALAC",
    "dca": "DTS",
    "eac3": "E-AC-3",
    "flac": "FLAC",
    "g722": "G.722",
    "g723_1": "G.723.1",
    "g726": "G.726",
    "libgsm": "GSM",
    "libgsm_ms": "GSM",
    "libmp3lame": "MP3",
    "libopus": "Opus",
    "libspeex": "Speex",
    "libtwolame": "MP2",
    "libvorbis": "Vorbis",
    "mlp": "MLP",
    "mp2": "MP2",
    "nellymoser": "Nellymoser",
    "opus": "Opus",
    "pcm_alaw": "A-law",
    "pcm_mulaw": "µ-law",
    "s302m": "SMPTE 302M",
    "truehd": "TrueHD",
    "tta": "True Audio",
    "vorbis": "Vorbis",
    "wavpack": "WavPack",
    "wmav1": "WMA",
    "wmav2": "WMA",
}


def table() -> str:
    """For docs/media.md: the codecs of each container."""
    rows = defaultdict[str, list[str]](list)
    for container, codecs in FORMS.items():
        if container not in REFUSED:
            names = dict.fromkeys(map(_codec_name, codecs.split()))
            rows[", ".join(names)].append(_CONTAINER_NAMES[container])
    lines = [f"| {', '.join(containers)} | {codecs} |" for codecs, containers in rows.items()]
    return "\n".join(["| Container | Codecs |", "|---|---|", *lines])


def _codec_name(encoder: str) -> str:
    if encoder in _CODEC_NAMES:
        return _CODEC_NAMES[encoder]
    return "ADPCM" if encoder.startswith("adpcm") else "PCM"
