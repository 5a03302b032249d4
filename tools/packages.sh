#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Have Debian install what recordings need, if it is missing. As root or with sudo; else say how.
set -eu

missing=
need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need Xvfb xvfb
need xrandr x11-xserver-utils
need pulseaudio pulseaudio
need ffmpeg ffmpeg
need chromium chromium
need setpriv util-linux
command -v fc-list >/dev/null 2>&1 && fc-list 2>/dev/null | grep -qi dejavu || missing="$missing fonts-dejavu-core"
[ -n "$missing" ] || exit 0

# shellcheck disable=SC2086 # a list of packages
set -- $missing
command="apt-get install --yes --no-install-recommends $*"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "recordings need: $* (Debian's names); install them and try again" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    sudo=
elif command -v sudo >/dev/null 2>&1; then
    sudo=sudo
else
    echo "recordings need packages; as root: $command" >&2
    exit 1
fi
echo "==> installing with apt: $*"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update --quiet=2
$sudo $command --quiet=2 >/dev/null
