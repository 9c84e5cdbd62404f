#!/bin/sh
# Makes .venv with the first Python that is new enough and installs basemlx into it, editable, in the versions that
# constraints.txt names. Where that was done before with the same pyproject.toml, constraints.txt and extras, it does
# nothing and needs no network.
#
#   PYTHON   interpreter to use; by default python3, or a versioned one where python3 is too old (as macOS's own is)
#   EXTRAS   by default cpu,dev,integrations on Linux, dev,integrations elsewhere
set -eu
cd "$(dirname "$0")/.."

venv=.venv
stamp=$venv/basemlx-installed

case "$(uname -s)" in
    Linux) extras=${EXTRAS:-cpu,dev,integrations} ;;
    *) extras=${EXTRAS:-dev,integrations} ;;
esac

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if is_new_enough "$python"; then return; fi
    done
    found=$(version "${PYTHON:-python3}") && found="Python $found" || found="no Python"
    echo "basemlx needs Python 3.11 or newer, and ${PYTHON:-python3} is $found." >&2
    echo "Name another one: make setup PYTHON=python3.12" >&2
    exit 1
}

if [ -n "${PYTHON:-}" ]; then
    find_python
    if [ "$(version "$python")" != "$(version $venv/bin/python)" ]; then rm -rf $venv; fi
fi
# MLX's CPU and CUDA builds overwrite each other: with other extras, start anew.
if [ -f $stamp ] && [ "$(head -n 1 $stamp)" != "$extras" ]; then rm -rf $venv; fi

wanted=$(echo "$extras" && cksum pyproject.toml constraints.txt)
if [ -f $stamp ] && [ "$(cat $stamp)" = "$wanted" ]; then exit 0; fi

if ! is_new_enough $venv/bin/python; then
    find_python
    rm -rf $venv
    echo "making $venv with Python $(version "$python")"
    "$python" -m venv $venv
fi
echo "installing basemlx[$extras] into $venv (the first time it downloads about 200 MB)"
$venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-input \
    --constraint constraints.txt --editable ".[$extras]"
# xgrammar names torch and triton as needs, 3 GB of them; what basemlx uses of it needs neither.
$venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-input \
    --constraint constraints.txt --no-deps xgrammar apache-tvm-ffi
echo "$wanted" > $stamp
