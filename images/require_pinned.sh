#!/bin/sh
# Fails where an installed package is not in constraints.txt: it would be another one tomorrow.
# Arguments go to `pip freeze`.
set -eu
python -m pip --python /opt/venv/bin/python freeze --all "$@" > /installed.txt
if grep -vxiFf /constraints.txt /installed.txt; then
    echo "the packages above are not pinned: make constraints" >&2
    exit 1
fi
