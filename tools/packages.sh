#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Have Debian install what is missing, as root or with sudo; else say how.
#
# usage: tools/packages.sh          what recordings need
#        tools/packages.sh demo     what their demo and benchmark need besides: ffmpeg, to compare
#        tools/packages.sh tests    what the tests need besides: also a proxy, machines to boot
#        tools/packages.sh pages    what recordings need, and glyphs of all scripts
set -eu

missing=
need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need Xvfb xvfb
need xrandr x11-xserver-utils
need pulseaudio pulseaudio
need chromium chromium
need setpriv util-linux
command -v fc-list >/dev/null 2>&1 && fc-list 2>/dev/null | grep -qi dejavu || missing="$missing fonts-dejavu-core"
library() { # NAME PACKAGE
    for place in /usr/lib/*/"$1" /usr/lib/"$1" /usr/lib64/"$1"; do
        [ ! -e "$place" ] || return 0
    done
    missing="$missing $2"
}
library libyuv.so.0 libyuv0
library libpulse-simple.so.0 libpulse0
library libxcb.so.1 libxcb1
case "${1:-}" in demo | tests) need ffmpeg ffmpeg ;; esac
if [ "${1:-}" = pages ]; then
    for font in core cjk color-emoji; do
        dpkg-query --show "fonts-noto-$font" >/dev/null 2>&1 || missing="$missing fonts-noto-$font"
    done
fi
if [ "${1:-}" = tests ]; then
    [ -x /usr/sbin/nginx ] || missing="$missing nginx-light"
    need certutil libnss3-tools
    need strace strace
fi
if [ "${1:-}" = tests ] && [ "$(id -u)" = 0 ]; then # only root boots machines
    need systemd-nspawn systemd-container
    need dbus-daemon dbus
    [ "$(uname -m)" != x86_64 ] || need linux.uml user-mode-linux
    [ -e /usr/lib/polkit-1/polkitd ] || missing="$missing polkitd"
    python3=$(/usr/bin/python3 -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing="$missing $python3"
fi
[ -n "$missing" ] || exit 0

# shellcheck disable=SC2086 # a list of packages
set -- $missing
command="apt-get install --yes --no-install-recommends $*"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "callsd needs: $* (Debian's names); install them and try again" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    sudo=
elif command -v sudo >/dev/null 2>&1; then
    sudo=sudo
else
    echo "callsd needs packages; as root: $command" >&2
    exit 1
fi
echo "==> installing with apt: $*"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update --quiet=2
$sudo $command --quiet=2 >/dev/null
