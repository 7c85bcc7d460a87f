#!/bin/sh
# Send a file through TCP with its checksum behind the last byte. The receiver checks the checksum and takes it away.
# A transfer that was damaged, or cut short, ends the receiver with exit code 1.
set -eu
dir=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || :; wait; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

mkfifo "$dir/ready"
seq 100000 >"$dir/original"

serpipe --quiet --ready-fd 3 -u tcp-listen:0,once checksum:sha256,strip "file:$dir/copy" 3>"$dir/ready" &
receiver=$!
pids=$receiver
read -r _ address _ <"$dir/ready"
serpipe --quiet -u "file:$dir/original" checksum:sha256,append "tcp:$address"
wait "$receiver" # its exit code is the verdict
pids=
cmp "$dir/original" "$dir/copy"
echo "the copy is good"

# the same without a trailer: the value is known, as from a download page
value=$(sha256sum "$dir/original" | cut -d' ' -f1)
serpipe --quiet -u "file:$dir/copy" "checksum:sha256,verify=$value" null:
echo "the checksum is as published"

# and what it says when a byte is wrong
sed 's/99999/99998/' "$dir/original" >"$dir/damaged"
status=0
serpipe -u "file:$dir/damaged" "checksum:sha256,verify=$value" null: || status=$?
test "$status" -eq 1
echo "the damaged one was found out: exit code 1"
