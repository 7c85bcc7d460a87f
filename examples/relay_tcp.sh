#!/bin/sh
# Relay one TCP port to another, for any number of clients at the same time, and write down what passes.
set -eu
dir=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || :; wait; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM

# the server behind it: one that sends back what it gets
mkfifo "$dir/server" "$dir/relay"
serpipe --quiet --ready-fd 3 tcp-listen:0 loop:,realtime=off 3>"$dir/server" &
pids=$!
read -r _ server _ <"$dir/server"

serpipe --quiet --ready-fd 3 tcp-listen:0 "hexdump:$dir/passed.log" "tcp:$server" 3>"$dir/relay" &
pids="$pids $!"
read -r _ relay _ <"$dir/relay"
echo "relay: $relay to $server"

answer=$(echo "through the relay" | serpipe --quiet -t 300ms - "tcp:$relay")
echo "came back: $answer"
test "$answer" = "through the relay"
cat "$dir/passed.log"
grep -q 'through the rel' "$dir/passed.log"
