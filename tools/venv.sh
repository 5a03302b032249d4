#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Make the virtual environment DIR with PYTHON, on a machine that may lack the pieces for it.
#
# usage: tools/venv.sh PYTHON DIR
#
# An environment that works is left alone, whatever made it: running venv over it with another
# interpreter would leave the binary of one beside the standard library of the other.
#
# Debian and Ubuntu leave ensurepip out of python3: with root or sudo the missing package is
# installed, otherwise the command to type is printed.
set -eu

python=$1
dir=$2

if "$dir/bin/python" -c 'import pip, sqlite3, ssl' 2>/dev/null; then
    exit 0
fi

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "callsd needs Python 3.11 or newer, and '$python' is not one." >&2
    echo "Install it (Debian 12: apt-get install python3) or name it: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi

if ! "$python" -c 'import sqlite3, ssl' 2>/dev/null; then
    echo "'$python' was built without ssl or sqlite3; name another: make PYTHON=/usr/bin/python3" >&2
    exit 1
fi

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ]; then
        as_root=
    elif sudo -n true 2>/dev/null; then
        as_root='sudo -n'
    else
        as_root=none
    fi
    if [ "$as_root" = none ] || ! command -v apt-get >/dev/null; then
        echo "Python's venv module is incomplete (ensurepip is missing)." >&2
        echo "Run this as root, then repeat:  apt-get update && apt-get install $package" >&2
        exit 1
    fi
    echo "==> installing $package (Python's venv module is incomplete without it)"
    $as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -qq -y --no-install-recommends "$package"
fi

echo "==> creating $dir with $("$python" --version)"
"$python" -m venv --clear "$dir"
