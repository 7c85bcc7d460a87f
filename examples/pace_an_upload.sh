#!/bin/sh
# Feed a device that cannot keep up: 20 ms behind each line, and the checksum of what was sent.
# It writes to a file here; with hardware the last word would be /dev/ttyUSB0,9600.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

for line in $(seq 25); do
    echo "set register $line"
done >"$dir/setup.txt"

start=$(date +%s%N)
serpipe -u "file:$dir/setup.txt" checksum:sha256 pace:20ms/line "file:$dir/device"
took=$((($(date +%s%N) - start) / 1000000))

echo "25 lines took $took ms"
cmp "$dir/setup.txt" "$dir/device"
test "$took" -ge 480 # the last line is followed by nothing that would have to wait
