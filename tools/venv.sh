#!/bin/sh
# Make .venv with the first Python >= 3.11 that works, or say exactly what is missing.
# PYTHON=<program> in the environment names one to use instead.
set -eu

found=
# A name on PATH may be a version manager's shim that runs nothing: each candidate has to answer.
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        found=$candidate
        break
    fi
done
if [ -z "$found" ]; then
    echo "chatserver needs Python 3.11 or newer, and none was found (tried: ${PYTHON:-python3, python3.13, python3.12, python3.11, python3.14, python})." >&2
    echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3 ..." >&2
    exit 1
fi

if ! "$found" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    version=$("$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "Python $version ($found) is here, but its venv and ensurepip modules are not." >&2
    echo "Install them (Debian, Ubuntu: apt-get install python$version-venv) and run make again." >&2
    exit 1
fi

echo "Creating .venv with $("$found" --version)"
# A half-made environment of an interrupted run is made anew; one that works is never touched.
"$found" -m venv --clear .venv
