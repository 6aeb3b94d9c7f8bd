#!/usr/bin/env bash
# One night: the candidate against the baseline, as many pairs of runs as it takes.
#
#   docs/ci/nightly.sh [--strict] BASELINE CANDIDATE [OUT]
#
# BASELINE and CANDIDATE are what `squall ab` takes: a Dynamo version, a *.yaml file, a URL, or `baseline`.
# An inconclusive night doesn't fail unless --strict is given. OUT (default: night) holds everything
# afterwards; a second call with the same OUT goes on where the first one stopped.
# Variables: SQUALL (the command), SCENARIO, PAIRS (auto or a number), ARCHIVE (a file that outlives the job).
set -uo pipefail

squall=${SQUALL:-.venv/bin/squall}
scenario=${SCENARIO:-configs/scenarios/nightly.yaml}
strict=()
if [ "${1:-}" = "--strict" ]; then
  strict=(--strict)
  shift
fi
if [ $# -lt 2 ] || [ $# -gt 3 ]; then
  echo "usage: $0 [--strict] BASELINE CANDIDATE [OUT]" >&2
  exit 2
fi
out=${3:-night}
archive=()
if [ -n "${ARCHIVE:-}" ]; then
  archive=(--archive "$ARCHIVE")
fi

"$squall" ab "$scenario" --a "$1" --b "$2" --pairs "${PAIRS:-auto}" --out "$out" "${archive[@]}" "${strict[@]}"
code=$?

# What people read first: the comment of a pull request, the summary of a job.
if [ -n "${GITHUB_STEP_SUMMARY:-}" ] && [ -f "$out/report/report.md" ]; then
  cat "$out/report/report.md" >>"$GITHUB_STEP_SUMMARY"
fi

case $code in
  0) echo "night: pass" ;;
  1) echo "night: worse, broken, or (with --strict) undecided; see $out/report/report.html" ;;
  2) echo "night: wrong command line or scenario; nothing ran" ;;
  3) echo "night: undecided; that is no failure without --strict" ;;
  4) echo "night: the data can't be used; the line after 'verdict' names the run and what to do" ;;
  5) echo "night: this machine is not as it was before; run the commands that are printed above" ;;
  130) echo "night: interrupted; the same command goes on with the next pair" ;;
  *) echo "night: unexpected exit code $code" ;;
esac
if [ "$code" -eq 3 ]; then
  exit 0
fi
exit "$code"
