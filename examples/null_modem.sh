#!/bin/sh
# Two ttys, joined as by a null modem cable: what a program writes to one, a program reads from the other.
set -eu
dir=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || :; wait; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

mkfifo "$dir/ready"
serpipe --quiet --ready-fd 3 "pty:$dir/a" "pty:$dir/b" 3>"$dir/ready" &
pids=$!
read -r _ _ _ <"$dir/ready"

exec 4<>"$dir/a" 5<>"$dir/b"
echo "from a" >&4
read -r at_b <&5
echo "from b" >&5
read -r at_a <&4
exec 4>&- 5>&-

echo "b read: $at_b"
echo "a read: $at_a"
test "$at_b" = "from a"
test "$at_a" = "from b"
