#!/bin/sh
# Writes constraints.txt anew: what pip chooses today within pyproject.toml's ranges. The head of the file (its comment
# and the pins that are there for a reason) stays. A change of versions is a commit of its own, after `make test`.
set -eu
cd "$(dirname "$0")/.."

head=$(mktemp)
trap 'rm -f "$head"' EXIT
sed '/^# Versions/q' constraints.txt > "$head"
cp "$head" constraints.txt
rm -rf .venv
sh scripts/setup.sh
.venv/bin/python -m pip freeze --exclude-editable | grep -v '^torch==' | LC_ALL=C sort -f > .venv/versions
cat "$head" .venv/versions > constraints.txt
sh scripts/setup.sh
git --no-pager diff --stat -- constraints.txt
