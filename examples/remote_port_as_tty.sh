#!/bin/sh
# A serial port of another machine as a tty of this one. A program sets the tty to 57600 baud, and the far port is set.
set -eu
dir=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || :; wait; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

# the other machine: its port is the loopback device, and what reaches the port is written to a log
mkfifo "$dir/far" "$dir/near"
serpipe --quiet --ready-fd 3 rfc2217-listen:0 "hexdump:$dir/port.log" loop:,realtime=off 3>"$dir/far" &
pids=$!
read -r _ address _ <"$dir/far"

# this machine
serpipe --quiet --ready-fd 3 "pty:$dir/tty" "rfc2217://$address" 3>"$dir/near" &
pids="$pids $!"
read -r _ _ _ <"$dir/near"

# any program on the tty
exec 4<>"$dir/tty"
stty -F "$dir/tty" 57600
echo "hello" >&4
read -r answer <&4
exec 4>&-

echo "the tty answers: $answer"
echo "the far port was told:"
grep 'SET-BAUD 57600' "$dir/port.log"
test "$answer" = "hello"
