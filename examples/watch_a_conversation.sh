#!/bin/sh
# Stand between a program and its device, and write down everything that passes, bytes and controls, with the time.
# The device is the built-in loopback one; with hardware it would be /dev/ttyUSB0 instead of loop:.
set -eu
dir=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || :; wait; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

mkfifo "$dir/ready"
serpipe --quiet --ready-fd 3 "pty:$dir/tty" "hexdump:$dir/talk.log" loop:,realtime=off 3>"$dir/ready" &
pids=$!
read -r _ _ _ <"$dir/ready"

exec 4<>"$dir/tty" # the program: it sets the rate, says something, and reads the answer
stty -F "$dir/tty" 19200
echo "AT+GMR" >&4
read -r answer <&4
exec 4>&-

cat "$dir/talk.log"
test "$answer" = "AT+GMR"
grep -q -e '-> .*AT+GMR' "$dir/talk.log"
grep -q -e '<- .*AT+GMR' "$dir/talk.log"
